// Rows of channels in runs, whose sums are added in order.
#pragma once
#include <algorithm>
#include <cstdint>

#include "integers.hpp"

namespace hypersign {

// Runs of rows. Their size depends on the channels alone, so sums do not depend on threads.
struct Runs {
    static constexpr int64_t kCached = 8192;  // numbers of a run, 32 KiB: its second pass reads the cache
    int64_t rows, size, count;

    Runs(int64_t rows, int64_t channels)
        : rows(rows), size(std::clamp<int64_t>(kCached / channels, 8, 128)), count(ceil_div(rows, size)) {}
    int64_t length(int64_t run) const { return std::min(size, rows - run * size); }
};

}  // namespace hypersign
