#include <algorithm>

#include "hamming/hamming.hpp"

namespace hypersign {
namespace {

// Number of ones: in pairs, in fours, in bytes, and the sum of the bytes.
int32_t ones(uint64_t x) {
    x -= (x >> 1) & 0x5555555555555555;
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333);
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F;
    return static_cast<int32_t>((x * 0x0101010101010101) >> 56);
}

void layout(const uint64_t *codes, int64_t count, int64_t words, uint64_t *block) {
    std::copy_n(codes, count * words, block);
}

int64_t nearer(const uint64_t *block, int64_t count, const uint64_t *query, int64_t words, int32_t limit,
               uint32_t *positions, int32_t *distances) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; ++i, block += words) {
        int32_t distance = 0;
        for (int64_t word = 0; word < words; ++word) distance += ones(block[word] ^ query[word]);
        if (distance < limit) {
            positions[found] = static_cast<uint32_t>(i);
            distances[found++] = distance;
        }
    }
    return found;
}

}  // namespace

const HammingKernels hamming_portable{layout, nearer, 1};

}  // namespace hypersign
