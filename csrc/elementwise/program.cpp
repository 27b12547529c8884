#include "elementwise/program.hpp"

#include <algorithm>
#include <limits>
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

// Whether instructions from number `from` on read a value that was written before them.
bool ElementwiseProgram::reads_later(size_t from, int value) const {
    for (; from < instructions_.size(); ++from) {
        if (instructions_[from].from == value || instructions_[from].other == value) return true;
        if (instructions_[from].to == value) return false;
    }
    return false;
}

// A sum of integers and a shortcut becomes one with RPReLU and with binary levels, where they come next.
void ElementwiseProgram::join_residuals() {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    std::vector<Instruction> joined;
    for (size_t i = 0; i < instructions_.size(); ++i) {
        const Instruction &sum = instructions_[i];
        const Kind kind = values_[sum.from].kind;
        const auto next = [&](size_t k, Operation operation) {
            return i + k < instructions_.size() && instructions_[i + k].operation == operation ? &instructions_[i + k]
                                                                                               : nullptr;
        };
        size_t count = 1;
        if (sum.operation == Operation::affine_add && (kind == Kind::product || kind == Kind::int32) &&
            values_[sum.to].channels % 16 == 0) {
            const Instruction *before = next(1, Operation::affine), *right = next(2, Operation::clip),
                              *right_slope = next(3, Operation::affine), *left = next(4, Operation::clip),
                              *left_slope = next(5, Operation::affine_add);
            bool rprelu = before && right && right_slope && left && left_slope && before->from == sum.to &&
                          right->from == before->to && right->low == 0 && right->high == kInfinity &&
                          right_slope->from == right->to && left->from == before->to && left->low == -kInfinity &&
                          left->high == 0 && left_slope->from == left->to && left_slope->other == right_slope->to;
            for (size_t k = 0; rprelu && k < 5; ++k) {
                const int value = instructions_[i + k].to;
                rprelu = values_[value].kind == Kind::scratch && (value == left_slope->to || !reads_later(i + 6, value));
            }
            if (rprelu) count = 6;
            const Instruction *levels = next(count, Operation::levels);
            if (levels && !levels->ternary && levels->from == instructions_[i + count - 1].to) ++count;
        }
        if (count == 1) {
            joined.push_back(std::move(instructions_[i]));
            continue;
        }
        Instruction residual{};
        residual.operation = Operation::residual;
        residual.to = instructions_[i].to;
        residual.from = instructions_[i].from;
        for (size_t k = 0; k < count; ++k) residual.parts.push_back(instructions_[i + k]);  // copied: later ones read them
        joined.push_back(std::move(residual));
        i += count - 1;
    }
    instructions_ = std::move(joined);
}

void ElementwiseProgram::finish() {
    join_sums();
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
        } else if (instruction.operation == Operation::affine || instruction.operation == Operation::affine_add) {
            const int64_t pixels = std::max<int64_t>(1, kPeriod / channels);
            for (std::vector<float> *row : {&instruction.p, &instruction.q})
                for (int64_t i = channels; i < pixels * channels; ++i) row->push_back((*row)[i - channels]);
        }
    }
    join_residuals();
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
    for (const Instruction &instruction : instructions_)
        run_instruction(instruction, first, count, sums, filters, scratch);
}

void ElementwiseProgram::run_instruction(const Instruction &instruction, int64_t first, int64_t count,
                                         const int32_t *sums, int64_t filters, float *scratch) {
    const ElementwiseKernels &kernels = *current_kernels().elementwise;
    const auto at = [&](int index) -> float * {
        const Value &value = values_[index];
        if (value.kind == Kind::scratch) return scratch + tile_ * value.offset;
        const int64_t pixel = value.period ? first % value.period : first;
        return reinterpret_cast<float *>(value.data) + pixel * value.channels;
    };
    const Value &from = values_[instruction.from], &to = values_[instruction.to];
    const int64_t channels = to.channels, n = count * channels;
    const float *p = instruction.p.data(), *q = instruction.q.data();
    switch (instruction.operation) {
    case Operation::affine:
    case Operation::affine_add: {
        const int64_t period = static_cast<int64_t>(instruction.p.size());
        const bool adds = instruction.operation == Operation::affine_add;
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
        break;
    }
    case Operation::residual: {
        if (!kernels.residual) {
            for (const Instruction &part : instruction.parts) run_instruction(part, first, count, sums, filters, scratch);
            break;
        }
        const std::vector<Instruction> &parts = instruction.parts;
        const Instruction &sum = parts[0], &last = parts[parts.size() >= 6 ? 5 : 0];
        const bool product = from.kind == Kind::product;
        ResidualTask task{};
        task.x = product ? sums + from.offset : reinterpret_cast<const int32_t *>(from.data) + first * channels;
        task.x_stride = product ? filters : channels;
        task.scale = sum.p.data();
        task.shift = sum.q.data();
        task.other = at(sum.other);
        if (parts.size() >= 6)
            for (int i = 0; i < 3; ++i) {
                task.rprelu[2 * i] = parts[2 * i + 1].p.data();
                task.rprelu[2 * i + 1] = parts[2 * i + 1].q.data();
            }
        if (const Instruction &levels = parts.back(); levels.operation == Operation::levels) {
            task.low = levels.p.data();
            task.flip = levels.flip.data();
            task.sign = reinterpret_cast<uint64_t *>(values_[levels.to].data) + first * ceil_div(channels, 64);
        }
        task.y = at(last.to);
        task.pixels = count;
        task.channels = channels;
        if (kernels.residual(task)) nan_ = true;
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

}  // namespace hypersign
