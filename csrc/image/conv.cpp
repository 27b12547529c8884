#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>

#include "borders.hpp"
#include "image/image.hpp"
#include "integers.hpp"
#include "parallel.hpp"

namespace hypersign {
namespace {

constexpr int64_t kCopy = 16;  // bytes copied together; the next copy overwrites the excess

// The padded lines of an image under a row of the output, as many as a kernel reaches over; neighbours share them.
class Lines {
   public:
    explicit Lines(const ImageTask &task)
        : task_(task),
          reach_((task.size[0] - 1) * task.dilation[0] + 1),
          pitch_((task.width + 2 * task.padding[1]) * task.channels + kCopy),
          lines_(static_cast<size_t>(reach_ * pitch_)),
          held_(static_cast<size_t>(reach_), {-1, 0}) {}

    int64_t slots() const { return reach_; }
    int64_t bytes() const { return pitch_ - kCopy; }  // of a line

    // Calls use(kernel row, slot, line, whether the slot's line is a new one).
    template <typename Use>
    void under(int64_t image, int64_t y, Use &&use) {
        for (int64_t i = 0; i < task_.size[0]; ++i) {
            const int64_t above = y * task_.stride[0] + i * task_.dilation[0], row = above - task_.padding[0];
            const int64_t slot = above % reach_;
            uint8_t *line = lines_.data() + slot * pitch_;
            const bool fresh = held_[static_cast<size_t>(slot)] != std::pair{image, row};
            if (fresh) {
                held_[static_cast<size_t>(slot)] = {image, row};
                const auto size = static_cast<size_t>(task_.width * task_.channels);
                uint8_t *to = line + task_.padding[1] * task_.channels;
                if (row < 0 || row >= task_.height)
                    std::memset(to, 0, size);
                else
                    std::memcpy(to, task_.x + (image * task_.height + row) * static_cast<int64_t>(size), size);
            }
            use(i, slot, line, fresh);
        }
    }

   private:
    const ImageTask &task_;
    const int64_t reach_, pitch_;
    std::vector<uint8_t> lines_;
    std::vector<std::pair<int64_t, int64_t>> held_;  // image and row
};

class Convolution {
   public:
    explicit Convolution(const ImageTask &task)
        : task_(task),
          kernels_(*current_kernels().image),
          lanes_(round_up(task.filters, kImageLanes)),
          rows_(task.out[0], task.height, task.size[0], task.stride[0], task.padding[0], task.dilation[0]),
          columns_(task.out[1], task.width, task.size[1], task.stride[1], task.padding[1], task.dilation[1]) {
        // Taps side by side are one run.
        runs_ = task.dilation[1] == 1 ? 1 : task.size[1];
        run_ = task.size[1] * task.channels / runs_;
        depth_ = round_up(task.size[0] * runs_ * run_, kImageTaps);
        step_ = task.stride[1] * task.channels;
        for (int64_t i = 0; i < lanes_ * depth_; ++i) largest_ = std::max<int64_t>(largest_, std::abs(task.weights[i]));
        if (largest_ > kImageMaxWeight) throw std::invalid_argument("weights of magnitudes up to 64 were expected");

        // The part of the sums that comes from the shift: (row ranges, column ranges, lanes).
        starts_.resize(rows_.ranges.size() * columns_.ranges.size() * static_cast<size_t>(lanes_));
        int32_t *start = starts_.data();
        for (const auto &[top, bottom] : rows_.ranges)
            for (const auto &[left, right] : columns_.ranges) {
                for (int64_t i = top; i < bottom; ++i)
                    for (int64_t j = left; j < right; ++j)
                        for (int64_t lane = 0; lane < lanes_; ++lane)
                            start[lane] += task.taps[(i * task.size[1] + j) * lanes_ + lane];
                start += lanes_;
            }
        if (kernels_.tables != nullptr) prepare_tables();
    }

    void run(int threads) const {
        parallel_for(task_.images * task_.out[0], threads, [&](int64_t first, int64_t last) {
            groups_ > 0 ? by_tables(first, last) : by_patches(first, last);
        });
    }

   private:
    void prepare_tables();
    // Rows of the output, of all images.
    void by_patches(int64_t first, int64_t last) const;
    void by_tables(int64_t first, int64_t last) const;
    int8_t weight(int64_t filter, int64_t tap) const {
        const int64_t four = filter / kImageLanes * (depth_ / kImageTaps) + tap / kImageTaps;
        return task_.weights[(four * kImageLanes + filter % kImageLanes) * kImageTaps + tap % kImageTaps];
    }
    // The number of a pixel's start.
    size_t pattern(int64_t y, int64_t x) const {
        return static_cast<size_t>(rows_.range_of[static_cast<size_t>(y)]) * columns_.ranges.size() +
               static_cast<size_t>(columns_.range_of[static_cast<size_t>(x)]);
    }
    // Sets the output of a row.
    template <typename Row>
    void set_output(int64_t tile, Row &row) const {
        const int64_t first = tile * task_.out[1], words = ceil_div(task_.filters, 64);
        row.pixels = task_.out[1];
        row.filters = task_.filters;
        row.flip = task_.flip;
        if (task_.sign != nullptr) row.sign = task_.sign + first * words;
        if (task_.nonzero != nullptr) row.nonzero = task_.nonzero + first * words;
    }

    const ImageTask task_;
    const ImageKernels &kernels_;
    const int64_t lanes_;
    const Borders rows_, columns_;
    int64_t runs_, run_;  // of a kernel row, and bytes of each
    int64_t depth_;       // bytes of a filter
    int64_t step_;        // bytes from one pixel's taps to the next's
    int64_t largest_ = 0;
    std::vector<int32_t> starts_;

    // For tables: threes of taps, and the rest of a run.
    struct Three {
        int64_t row, byte, tap, taps;
    };
    std::vector<Three> threes_;
    int64_t picks_of_ = 1;              // a three
    int64_t groups_ = 0;                // of taps: threes, times their picks; without tables, none
    std::vector<uint8_t> picks_;        // as `ImageLookup` has them
    int64_t bounds_of_ = 0;             // a pattern
    std::vector<int16_t> bounds_;
};

void Convolution::by_patches(int64_t first, int64_t last) const {
    Lines lines(task_);
    std::vector<const uint8_t *> line_of(static_cast<size_t>(task_.size[0]));
    std::vector<uint8_t> patches(static_cast<size_t>(task_.out[1] * depth_ + runs_ * run_ + kCopy));
    std::vector<const int32_t *> start_of(static_cast<size_t>(task_.out[1]));
    for (int64_t tile = first; tile < last; ++tile) {
        const int64_t y = tile % task_.out[0];
        lines.under(tile / task_.out[0], y, [&](int64_t i, int64_t, const uint8_t *line, bool) {
            line_of[static_cast<size_t>(i)] = line;
        });
        // In order: the next copies overwrite the excess of each.
        for (int64_t x = 0; x < task_.out[1]; ++x) {
            uint8_t *to = patches.data() + x * depth_;
            for (const uint8_t *line : line_of) {
                const uint8_t *from = line + x * step_;
                for (int64_t j = 0; j < runs_; ++j, from += task_.dilation[1] * task_.channels, to += run_)
                    if (run_ <= kCopy)
                        std::memcpy(to, from, kCopy);
                    else
                        std::memcpy(to, from, static_cast<size_t>(run_));
            }
            start_of[static_cast<size_t>(x)] = starts_.data() + pattern(y, x) * static_cast<size_t>(lanes_);
        }
        ImageRow row{};
        set_output(tile, row);
        row.patches = patches.data();
        row.fours = depth_ / kImageTaps;
        row.weights = task_.weights;
        row.largest = largest_;
        row.start = start_of.data();
        row.low = task_.low;
        row.high = task_.high;
        if (task_.sums != nullptr) row.sums = task_.sums + tile * task_.out[1] * task_.filters;
        kernels_.row(row);
    }
}

// Tables serve levels whose sums fit in 16 bits.
void Convolution::prepare_tables() {
    constexpr int64_t kBlock = kImageTableFilters;
    const int64_t taps = task_.size[0] * runs_ * run_, blocks = ceil_div(task_.filters, kBlock);
    if (task_.low == nullptr || largest_ == 0) return;
    // Twice a ternary filter's sum is that with +1 for its zeros plus that with -1.
    for (int64_t filter = 0; filter < task_.filters; ++filter)
        for (int64_t tap = 0; tap < taps; ++tap)
            if (weight(filter, tap) == 0) picks_of_ = 2;
    if (picks_of_ * taps * UINT8_MAX >= INT16_MAX) return;

    for (int64_t i = 0; i < task_.size[0]; ++i)
        for (int64_t j = 0; j < runs_; ++j)
            for (int64_t k = 0; k < run_; k += 3)
                threes_.push_back({i, j * task_.dilation[1] * task_.channels + k, (i * runs_ + j) * run_ + k,
                                   std::min<int64_t>(3, run_ - k)});
    groups_ = static_cast<int64_t>(threes_.size()) * picks_of_;
    picks_.resize(static_cast<size_t>(blocks * groups_ * kBlock * 2));
    uint8_t *pick = picks_.data();
    for (int64_t block = 0; block < blocks; ++block)
        for (const Three &three : threes_)
            for (int64_t zero = 0; zero < picks_of_; ++zero, pick += kBlock * 2)
                for (int64_t i = 0; i < kBlock; ++i) {
                    const int64_t filter = block * kBlock + i;
                    int entry = 0;
                    for (int64_t tap = 0; tap < three.taps && filter < task_.filters; ++tap) {
                        const int8_t w = weight(filter, three.tap + tap);
                        entry |= (w < 0 || (w == 0 && zero)) << tap;
                    }
                    pick[2 * image_table_lane(i)] = static_cast<uint8_t>(2 * entry);
                    pick[2 * image_table_lane(i) + 1] = static_cast<uint8_t>(2 * entry + 1);
                }

    // start + largest s / picks < limit where s <= floor((picks (limit - start) - 1) / largest).
    const int64_t limits = task_.high != nullptr ? 2 : 1;
    const size_t patterns = rows_.ranges.size() * columns_.ranges.size();
    bounds_of_ = limits * blocks * kBlock;
    bounds_.resize(patterns * static_cast<size_t>(bounds_of_));
    for (size_t p = 0; p < patterns; ++p)
        for (int64_t i = 0; i < limits; ++i)
            for (int64_t filter = 0; filter < task_.filters; ++filter) {
                const int64_t start = starts_[p * static_cast<size_t>(lanes_) + static_cast<size_t>(filter)];
                const int64_t above = picks_of_ * ((i ? task_.high : task_.low)[filter] - start) - 1;
                const int64_t bound = above / largest_ - (above % largest_ < 0);
                const int64_t at = i * blocks * kBlock + filter / kBlock * kBlock + image_table_lane(filter % kBlock);
                bounds_[p * static_cast<size_t>(bounds_of_) + static_cast<size_t>(at)] =
                    static_cast<int16_t>(std::clamp<int64_t>(bound, INT16_MIN, INT16_MAX));
            }
}

void Convolution::by_tables(int64_t first, int64_t last) const {
    const ImageTables &kernels = *kernels_.tables;
    // Tables begin at each byte, or, where pixels are threes of bytes, at each third.
    const int64_t unit = task_.channels % 3 == 0 ? 3 : 1;
    const bool rest = run_ % 3 != 0;
    Lines lines(task_);
    const int64_t count = (lines.bytes() + unit - 1) / unit, size = count * kImageTable, slots = lines.slots();
    std::vector<uint8_t> tables(static_cast<size_t>(slots * size * (rest ? 2 : 1)));
    std::vector<int64_t> slot_of(static_cast<size_t>(task_.size[0]));
    std::vector<const uint8_t *> table_of(static_cast<size_t>(groups_));
    std::vector<const int16_t *> bounds_at(static_cast<size_t>(task_.out[1]));
    for (int64_t tile = first; tile < last; ++tile) {
        const int64_t y = tile % task_.out[0];
        lines.under(tile / task_.out[0], y, [&](int64_t i, int64_t slot, const uint8_t *line, bool fresh) {
            slot_of[static_cast<size_t>(i)] = slot;
            if (!fresh) return;
            kernels.tabulate(line, count, unit, 3, tables.data() + slot * size);
            if (rest)
                kernels.tabulate(line, count, unit, static_cast<int>(run_ % 3),
                                 tables.data() + (slots + slot) * size);
        });
        const uint8_t **table = table_of.data();
        for (const Three &three : threes_)
            for (int64_t pick = 0; pick < picks_of_; ++pick) {
                const int64_t of = slot_of[static_cast<size_t>(three.row)] + (three.taps < 3 ? slots : 0);
                *table++ = tables.data() + of * size + three.byte / unit * kImageTable;
            }
        for (int64_t x = 0; x < task_.out[1]; ++x)
            bounds_at[static_cast<size_t>(x)] = bounds_.data() + pattern(y, x) * static_cast<size_t>(bounds_of_);
        ImageLookup row{};
        set_output(tile, row);
        row.tables = table_of.data();
        row.groups = groups_;
        row.step = step_ / unit * kImageTable;
        row.picks = picks_.data();
        row.bounds = bounds_at.data();
        kernels.row(row);
    }
}

}  // namespace

std::function<void(int)> image_conv2d(const ImageTask &task) {
    return [convolution = std::make_shared<Convolution>(task)](int threads) { convolution->run(threads); };
}

}  // namespace hypersign
