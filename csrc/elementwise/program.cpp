#include "elementwise/program.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "integers.hpp"
#include "parallel.hpp"

namespace hypersign {
namespace {

constexpr int64_t kNumbers = 2048;  // of a row of values in a tile: some rows fit in the first cache together
constexpr int64_t kPeriod = 256;    // of parameters: where channels are few, rows of several pixels make a long loop

}  // namespace

int ElementwiseProgram::add_value(Value value) {
    if (value.kind == Kind::scratch) {
        value.offset = scratch_;
        scratch_ += value.channels;
    }
    values_.push_back(value);
    return static_cast<int>(values_.size()) - 1;
}

// An affine operation whose result only the next one reads, to add it, becomes one with it.
void ElementwiseProgram::join_sums() {
    std::vector<Instruction> joined;
    for (size_t i = 0; i < instructions_.size(); ++i) {
        Instruction &each = instructions_[i];
        const int value = each.to;
        bool joins = each.operation == Operation::affine && values_[value].kind == Kind::scratch &&
                     values_[each.from].kind != Kind::uint8 && i + 1 < instructions_.size();
        if (joins) {
            const Instruction &next = instructions_[i + 1];
            joins = next.operation == Operation::add && (next.from == value) != (next.other == value);
            for (size_t k = i + 2; joins && next.to != value && k < instructions_.size(); ++k) {
                joins = instructions_[k].from != value && instructions_[k].other != value;
                if (instructions_[k].to == value) break;
            }
        }
        if (!joins) {
            joined.push_back(std::move(each));
            continue;
        }
        Instruction &next = instructions_[++i];
        each.operation = Operation::affine_add;
        each.other = next.from == value ? next.other : next.from;
        each.to = next.to;
        joined.push_back(std::move(each));
    }
    instructions_ = std::move(joined);
}

// A sum of integers whose levels come next becomes one with them.
void ElementwiseProgram::join_levels() {
    std::vector<Instruction> joined;
    for (Instruction &each : instructions_) {
        Instruction *last = joined.empty() ? nullptr : &joined.back();
        const Kind kind = last ? values_[last->from].kind : Kind::scratch;
        if (each.operation == Operation::levels && !each.ternary && last &&
            last->operation == Operation::affine_add && last->to == each.from && values_[each.to].channels % 16 == 0 &&
            (kind == Kind::product || kind == Kind::int32)) {
            last->operation = Operation::affine_add_levels;
            last->limits = std::move(each.p);
            last->flip = std::move(each.flip);
            last->words = each.to;
        } else {
            joined.push_back(std::move(each));
        }
    }
    instructions_ = std::move(joined);
}

void ElementwiseProgram::finish() {
    join_sums();
    join_levels();
    int64_t most = 1;
    for (const Value &value : values_) {
        most = std::max(most, value.channels);
        if (value.period) repeat_ = value.period;
    }
    tile_ = std::max<int64_t>(1, kNumbers / most);
    for (Instruction &instruction : instructions_) {
        const int64_t channels = values_[instruction.to].channels;
        if (instruction.operation == Operation::levels) {
            for (std::vector<float> *limits : {&instruction.p, &instruction.q})
                if (!limits->empty()) limits->resize(round_up(channels, 16));
        } else if (instruction.operation == Operation::affine || instruction.operation == Operation::affine_add ||
                   instruction.operation == Operation::affine_add_levels) {
            const int64_t pixels = std::max<int64_t>(1, kPeriod / channels);
            for (std::vector<float> *row : {&instruction.p, &instruction.q})
                for (int64_t i = channels; i < pixels * channels; ++i) row->push_back((*row)[i - channels]);
        }
    }
}

void ElementwiseProgram::run(int64_t first, int64_t count, const int32_t *sums, int64_t filters) {
    static thread_local std::vector<float> scratch;
    scratch.resize(std::max<size_t>(scratch.size(), static_cast<size_t>(tile_ * scratch_)));
    for (int64_t done = 0; done < count;) {
        int64_t size = std::min(tile_, count - done);
        if (repeat_) size = std::min(size, repeat_ - (first + done) % repeat_);
        run_tile(first + done, size, sums ? sums + done * filters : nullptr, filters, scratch.data());
        done += size;
    }
}

void ElementwiseProgram::run(int threads) {
    constexpr int64_t kTiles = 8;  // at a time
    const int64_t size = kTiles * tile_;
    parallel_for(ceil_div(pixels, size), threads, [&](int64_t begin, int64_t end) {
        run(begin * size, std::min(end * size, pixels) - begin * size, nullptr, 0);
    });
}

void ElementwiseProgram::check() {
    if (nan_.exchange(false)) throw std::invalid_argument("numbers to pack must not hold NaN, which has no sign");
}

void ElementwiseProgram::run_tile(int64_t first, int64_t count, const int32_t *sums, int64_t filters,
                                  float *scratch) {
    const ElementwiseKernels &kernels = *current_kernels().elementwise;
    const auto at = [&](int index) -> float * {
        const Value &value = values_[index];
        if (value.kind == Kind::scratch) return scratch + tile_ * value.offset;
        const int64_t pixel = value.period ? first % value.period : first;
        return reinterpret_cast<float *>(value.data) + pixel * value.channels;
    };
    for (const Instruction &instruction : instructions_) {
        const Value &from = values_[instruction.from], &to = values_[instruction.to];
        const int64_t channels = to.channels, n = count * channels;
        const float *p = instruction.p.data(), *q = instruction.q.data();
        switch (instruction.operation) {
        case Operation::affine:
        case Operation::affine_add:
        case Operation::affine_add_levels: {
            uint64_t *sign = nullptr;
            if (instruction.operation == Operation::affine_add_levels)
                sign = reinterpret_cast<uint64_t *>(values_[instruction.words].data) + first * ceil_div(channels, 64);
            if (sign && kernels.affine_add_levels) {
                const bool product = from.kind == Kind::product;
                const int32_t *x = product ? sums + from.offset
                                           : reinterpret_cast<const int32_t *>(from.data) + first * channels;
                if (kernels.affine_add_levels(x, product ? filters : channels, p, q, at(instruction.other),
                                              instruction.limits.data(), instruction.flip.data(), at(instruction.to),
                                              sign, count, channels))
                    nan_ = true;
                break;
            }
            const int64_t period = static_cast<int64_t>(instruction.p.size());
            const bool adds = instruction.operation != Operation::affine;
            const float *other = adds ? at(instruction.other) : nullptr;
            float *y = at(instruction.to);
            const auto integers = [&](const int32_t *x, int64_t start, int64_t size) {
                if (adds)
                    kernels.affine_add_int32(x, p, q, period, other + start, y + start, size);
                else
                    kernels.affine_int32(x, p, q, period, y + start, size);
            };
            if (from.kind == Kind::product && filters != channels)
                for (int64_t i = 0; i < count; ++i) integers(sums + i * filters + from.offset, i * channels, channels);
            else if (from.kind == Kind::product)
                integers(sums, 0, n);
            else if (from.kind == Kind::int32)
                integers(reinterpret_cast<const int32_t *>(from.data) + first * channels, 0, n);
            else if (from.kind == Kind::uint8)
                kernels.affine_uint8(reinterpret_cast<const uint8_t *>(from.data) + first * channels, p, q, period, y,
                                     n);
            else if (adds)
                kernels.affine_add_float32(at(instruction.from), p, q, period, other, y, n);
            else
                kernels.affine_float32(at(instruction.from), p, q, period, y, n);
            if (sign && kernels.levels(y, instruction.limits.data(), nullptr, instruction.flip.data(), sign, nullptr, count,
                                       channels))
                nan_ = true;
            break;
        }
        case Operation::add:
            kernels.add(at(instruction.from), at(instruction.other), at(instruction.to), n);
            break;
        case Operation::clip:
            kernels.clip(at(instruction.from), instruction.low, instruction.high, at(instruction.to), n);
            break;
        case Operation::outer:
            kernels.outer(at(instruction.from), p, channels, at(instruction.to), count);
            break;
        case Operation::levels: {
            const int64_t words = ceil_div(channels, 64);
            uint64_t *sign = reinterpret_cast<uint64_t *>(to.data) + first * words;
            if (kernels.levels(at(instruction.from), p, instruction.ternary ? q : nullptr, instruction.flip.data(), sign,
                               instruction.ternary ? sign + pixels * words : nullptr, count, channels))
                nan_ = true;
            break;
        }
        }
    }
}

}  // namespace hypersign
