// What bit-sliced counting (product/sliced/sliced.hpp) keeps with packed filters.
#pragma once
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace hypersign {

struct SlicedFilters {
    struct Block {
        int64_t first_filter;
        int filters;
        int64_t bits;
        size_t start;  // of its planes
    };
    std::once_flag written;
    std::vector<Block> blocks;
    std::vector<uint8_t> memory;
    const uint8_t *planes = nullptr;  // in `memory`, on a cache line
};

}  // namespace hypersign
