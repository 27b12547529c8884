// What the lookup method (product/lookup/lookup.hpp) keeps with packed filters.
#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

namespace hypersign {

struct LookupFilters {
    std::atomic<int64_t> uses{0};  // convolutions that could have used the indices
    std::once_flag written;
    std::vector<uint8_t> indices;  // LUT indices of all filters, once written: [slice][tap][filter][index_bytes]
};

}  // namespace hypersign
