// Which taps of a window lie on the image, along one axis, at each position of the window.
#pragma once
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace hypersign {

struct Borders {
    std::vector<std::pair<int64_t, int64_t>> ranges;  // [first tap, last tap), each range once
    std::vector<int64_t> range_of;                    // of each position: an index into `ranges`

    Borders(int64_t positions, int64_t length, int64_t size, int64_t stride, int64_t padding, int64_t dilation) {
        range_of.reserve(static_cast<size_t>(positions));
        for (int64_t position = 0; position < positions; ++position) {
            const int64_t origin = position * stride - padding;
            int64_t first = 0, last = size;
            while (first < size && origin + first * dilation < 0) ++first;
            while (last > first && origin + (last - 1) * dilation >= length) --last;
            const std::pair<int64_t, int64_t> range{first, last};
            // Neighbours share ranges, so search from the end.
            const auto found = std::find(ranges.rbegin(), ranges.rend(), range);
            range_of.push_back(found == ranges.rend() ? static_cast<int64_t>(ranges.size())
                                                      : ranges.rend() - found - 1);
            if (found == ranges.rend()) ranges.push_back(range);
        }
    }
};

}  // namespace hypersign
