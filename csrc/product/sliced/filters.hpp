// What bit-sliced counting (product/sliced/sliced.hpp) keeps with packed filters.
#pragma once
#include <cstdint>
#include <mutex>
#include <vector>

namespace hypersign {

struct SlicedFilters {
    std::once_flag written;
    std::vector<uint8_t> memory;
    const uint8_t *planes = nullptr;  // in `memory`, on a cache line: [block][chunk][level][filter]
};

}  // namespace hypersign
