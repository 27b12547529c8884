#include "product8/order.hpp"
#include "product8/product8.hpp"

namespace hypersign {
namespace {

void tile(const Product8Tile &tile) {
    const int positions = 8 / tile.bits, mask = (1 << tile.bits) - 1;
    for (int64_t row = 0; row < tile.rows; ++row)
        for (int64_t group = 0; group < tile.groups; ++group) {
            int32_t codes[kProduct8Lanes] = {};
            const uint8_t *weights = tile.weights + group * tile.group_bytes();
            const int8_t *x = tile.x + group * positions * tile.part_bytes() + row * kProduct8Quad;
            for (int64_t step = 0; step < tile.steps; ++step, weights += kProduct8Step)
                for (int p = 0; p < positions; ++p) {
                    const int8_t *four = x + (p * tile.steps + step) * tile.rows * kProduct8Quad;
                    for (int64_t i = 0; i < kProduct8Step; ++i)
                        codes[i / kProduct8Quad] += (weights[i] >> (p * tile.bits) & mask) * four[i % kProduct8Quad];
                }
            for (int64_t filter = 0; filter < tile.count; ++filter)
                product8_put(tile, row, group, filter, codes[filter]);
        }
}

int64_t peak(int64_t rounds) {
    int32_t sum[kProduct8Step] = {};
    for (int64_t round = 0; round < rounds; ++round)
        for (int i = 0; i < kProduct8Step; ++i) sum[i] += static_cast<int32_t>(round & 127) * (i & 3);
    volatile int32_t kept = sum[rounds % kProduct8Step];
    (void)kept;
    return rounds * kProduct8Step;
}

}  // namespace

const Product8Kernels product8_portable{tile, order<>, 4, nullptr, nullptr, peak};

}  // namespace hypersign
