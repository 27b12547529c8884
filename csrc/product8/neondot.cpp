// 8-bit inputs with NEON's dot product (SDOT). In each of four lanes it multiplies four signed bytes with four others and
// adds the products to a 32-bit sum, exactly. Lanes are filters; the other operand is four inputs of one row, by lane. A
// shift and a mask leave the codes of one position; both serve all rows. Sixteen filters by four rows are 16 registers
// of accumulators.
#include <arm_neon.h>

#include "product8/order.hpp"
#include "product8/product8.hpp"

namespace hypersign {
namespace {

constexpr int kRegisters = 4, kFilters = 16;  // at once

template <int R>
int8x16_t load_fours(const int8_t *x) {
    if (R == 4) return vld1q_s8(x);
    if (R == 2) return vreinterpretq_s8_s64(vld1q_dup_s64(reinterpret_cast<const int64_t *>(x)));
    return vreinterpretq_s8_s32(vld1q_dup_s32(reinterpret_cast<const int32_t *>(x)));
}

template <int R>
void rows_of(const Product8Tile &tile, int64_t filter) {
    const int positions = 8 / tile.bits;
    const uint8x16_t mask = vdupq_n_u8(static_cast<uint8_t>((1 << tile.bits) - 1));
    for (int64_t group = 0; group < tile.groups; ++group) {
        int32x4_t codes[R][kRegisters];
        for (int r = 0; r < R; ++r)
            for (int i = 0; i < kRegisters; ++i) codes[r][i] = vdupq_n_s32(0);
        for (int p = 0; p < positions; ++p) {
            const int8x16_t shift = vdupq_n_s8(static_cast<int8_t>(-p * tile.bits));
            const uint8_t *weights = tile.weights + group * tile.group_bytes() + filter * kProduct8Quad;
            const int8_t *x = tile.x + (group * positions + p) * tile.part_bytes();
            for (int64_t step = 0; step < tile.steps; ++step, weights += kProduct8Step, x += R * kProduct8Quad) {
                const int8x16_t fours = load_fours<R>(x);
                for (int i = 0; i < kRegisters; ++i) {
                    const int8x16_t picked =
                        vreinterpretq_s8_u8(vandq_u8(vshlq_u8(vld1q_u8(weights + 16 * i), shift), mask));
                    codes[0][i] = vdotq_laneq_s32(codes[0][i], picked, fours, 0);
                    if (R > 1) codes[R > 1 ? 1 : 0][i] = vdotq_laneq_s32(codes[R > 1 ? 1 : 0][i], picked, fours, 1);
                    if (R > 2) {
                        codes[R > 2 ? 2 : 0][i] = vdotq_laneq_s32(codes[R > 2 ? 2 : 0][i], picked, fours, 2);
                        codes[R > 2 ? 3 : 0][i] = vdotq_laneq_s32(codes[R > 2 ? 3 : 0][i], picked, fours, 3);
                    }
                }
            }
        }
        for (int r = 0; r < R; ++r) {
            int32_t sums[kFilters];
            for (int i = 0; i < kRegisters; ++i) vst1q_s32(sums + 4 * i, codes[r][i]);
            const int64_t left = tile.count - filter, count = left < kFilters ? left : kFilters;
            for (int64_t i = 0; i < count; ++i) product8_put(tile, r, group, filter + i, sums[i]);
        }
    }
}

void tile(const Product8Tile &tile) {
    for (int64_t filter = 0; filter < tile.count; filter += kFilters) {
        if (tile.rows == 1)
            rows_of<1>(tile, filter);
        else if (tile.rows == 2)
            rows_of<2>(tile, filter);
        else
            rows_of<4>(tile, filter);
    }
}

// The dot products of the inner loop alone.
int64_t peak(int64_t rounds) {
    constexpr int kSums = 16;
    int8x16_t x = vdupq_n_s8(static_cast<int8_t>(rounds));
    int32x4_t sum[kSums];
    for (int i = 0; i < kSums; ++i) sum[i] = vdupq_n_s32(i);
    for (int64_t round = 0; round < rounds; ++round)
        for (int i = 0; i < kSums; ++i) {
            if (i == 0) __asm__ volatile("" : "+w"(x));  // as if x were new each time
            sum[i] = vdotq_s32(sum[i], x, x);
        }
    for (int i = 0; i < kSums; ++i) __asm__ volatile("" : : "w"(sum[i]));
    return rounds * kSums * 16;
}

}  // namespace

const Product8Kernels product8_neondot{tile, order<>, 4, nullptr, nullptr, peak};

}  // namespace hypersign
