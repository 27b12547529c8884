// 8-bit inputs with AVX-512 VNNI. In each of 16 lanes, vpdpbusd multiplies four unsigned bytes with four signed ones
// and adds the products to a 32-bit sum, exactly. Lanes are filters; four inputs of a row are broadcast by the load.
//
// Codes are not moved: a mask leaves those of one position, which stand for code << shift. The sums of positions from
// the highest on are shifted down between positions, so they need no registers of their own. An instruction of the
// mask serves all rows. Both take one of two vector ports, so R rows reach R / (R + 1) of 128 multiply-accumulates a
// cycle: 64 for one row, 118 for 12. A loop of vpmaddubsw and vpaddw, which speeds are compared with, reaches 64.
#include <immintrin.h>

#include "inline.hpp"
#include "product8/order.hpp"
#include "product8/product8.hpp"

#if !defined(HYPERSIGN_REGISTER)
#define HYPERSIGN_REGISTER "v"
#endif

namespace hypersign {
namespace {

constexpr int kBlocks = 2;  // registers of filters
constexpr int kAhead = 4096;  // bytes
constexpr int kRows = 12;   // 24 accumulators

HYPERSIGN_INLINE void put(const Product8Tile &tile, int64_t row, int64_t group, int block, __m512i codes) {
    const __m512i x_sum = _mm512_set1_epi32(tile.x_sums[row * tile.groups + group]);
    const __m512i sum = tile.bits == 1 ? _mm512_sub_epi32(x_sum, _mm512_add_epi32(codes, codes))
                                       : _mm512_sub_epi32(codes, x_sum);
    const int64_t left = tile.count - 16 * block;
    if (left <= 0) return;
    const __mmask16 valid = static_cast<__mmask16>(left >= 16 ? 0xFFFF : (1 << left) - 1);
    const int64_t at = row * tile.pitch_y + 16 * block;
    if (tile.sums != nullptr) {
        int32_t *y = tile.sums + at;
        _mm512_mask_storeu_epi32(
            y, valid, group == 0 ? sum : _mm512_add_epi32(sum, _mm512_maskz_loadu_epi32(valid, y)));
        return;
    }
    float *y = tile.scaled + at;
    __m512 term = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(tile.scale + group * kProduct8Lanes + 16 * block));
    if (group > 0) term = _mm512_add_ps(_mm512_maskz_loadu_ps(valid, y), term);
    if (group == tile.groups - 1) term = _mm512_mul_ps(term, _mm512_set1_ps(tile.x_scale[row]));
    _mm512_mask_storeu_ps(y, valid, term);
}

// Fetches the rows of the result, which may lie in memory.
template <int R>
HYPERSIGN_INLINE void prefetch(const Product8Tile &tile) {
    for (int r = 0; r < R; ++r)
        for (int b = 0; b < kBlocks; ++b)
            if (tile.sums != nullptr)
                __builtin_prefetch(tile.sums + r * tile.pitch_y + 16 * b, 1);
            else
                __builtin_prefetch(tile.scaled + r * tile.pitch_y + 16 * b, 1);
}

// R rows, with both registers of filters, Q positions at a time.
template <int bits, int R, int Q>
void rows_of(const Product8Tile &tile) {
    constexpr int kPositions = 8 / bits;
    constexpr int kFours = R * kProduct8Quad;  // bytes of the inputs of a step
    const int64_t part = tile.steps * kFours;
    prefetch<R>(tile);
    for (int64_t group = 0; group < tile.groups; ++group) {
        const uint8_t *weights = tile.weights + group * tile.group_bytes();
        __m512i codes[R][kBlocks][Q];
        for (int r = 0; r < R; ++r)
            for (int b = 0; b < kBlocks; ++b)
                for (int q = 0; q < Q; ++q) codes[r][b][q] = _mm512_setzero_si512();
        for (int first = kPositions - Q; first >= 0; first -= Q) {
            __m512i mask[Q];
            for (int q = 0; q < Q; ++q)
                mask[q] = _mm512_set1_epi8(static_cast<char>(((1 << bits) - 1) << ((first + q) * bits)));
            const int8_t *x = tile.x + (group * kPositions + first) * part;
            for (int64_t step = 0; step < tile.steps; ++step) {
                __m512i w[kBlocks];
                if (R <= 4)  // little work per weight: memory is the bottleneck
                    for (int b = 0; b < kBlocks; ++b)
                        __builtin_prefetch(weights + step * kProduct8Step + 64 * b + kAhead, 0, 3);
                for (int b = 0; b < kBlocks; ++b)
                    w[b] = _mm512_loadu_si512(weights + step * kProduct8Step + 64 * b);
                if (Q == 1)
                    for (int b = 0; b < kBlocks; ++b) w[b] = _mm512_and_si512(w[b], mask[0]);
                for (int q = 0; q < Q; ++q) {
                    __m512i picked[kBlocks];
                    for (int b = 0; b < kBlocks; ++b) picked[b] = Q == 1 ? w[b] : _mm512_and_si512(w[b], mask[q]);
                    for (int r = 0; r < R; ++r) {
                        int32_t four;
                        std::memcpy(&four, x + q * part + step * kFours + r * kProduct8Quad, 4);
                        const __m512i fours = _mm512_set1_epi32(four);
                        for (int b = 0; b < kBlocks; ++b)
                            codes[r][b][q] = _mm512_dpbusd_epi32(codes[r][b][q], picked[b], fours);
                    }
                }
            }
            if (first > 0)
                for (int r = 0; r < R; ++r)
                    for (int b = 0; b < kBlocks; ++b)
                        for (int q = 0; q < Q; ++q) codes[r][b][q] = _mm512_srai_epi32(codes[r][b][q], Q * bits);
        }
        for (int r = 0; r < R; ++r)
            for (int b = 0; b < kBlocks; ++b) {
                __m512i sum = codes[r][b][0];
                for (int q = 1; q < Q; ++q) sum = _mm512_add_epi32(sum, _mm512_srai_epi32(codes[r][b][q], q * bits));
                put(tile, r, group, b, sum);
            }
    }
}

template <int bits>
void all_rows(const Product8Tile &tile) {
    switch (tile.rows) {
    case 1:
        return rows_of<bits, 1, 8 / bits>(tile);
    case 2:
        return rows_of<bits, 2, 4>(tile);
    case 4:
        return rows_of<bits, 4, 2>(tile);
    case 8:
        return rows_of<bits, 8, 1>(tile);
    default:
        return rows_of<bits, kRows, 1>(tile);
    }
}

void tile(const Product8Tile &tile) { tile.bits == 1 ? all_rows<1>(tile) : all_rows<2>(tile); }

int64_t peak(int64_t rounds) {
    constexpr int kSums = 16;
    __m512i x = _mm512_set1_epi32(static_cast<int>(rounds)), sum[kSums], w[8];
    for (int i = 0; i < 8; ++i) w[i] = _mm512_set1_epi32(i);
    for (int i = 0; i < kSums; ++i) sum[i] = x;
    for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 16
        for (int i = 0; i < kSums; ++i) {
            if (i % 8 == 0) __asm__ volatile("" : "+" HYPERSIGN_REGISTER(x));  // as if x were new each time
            sum[i] = _mm512_add_epi16(sum[i], _mm512_maddubs_epi16(x, w[i % 8]));
        }
    for (int i = 0; i < kSums; ++i) __asm__ volatile("" : : HYPERSIGN_REGISTER(sum[i]));
    return rounds * kSums * 64;
}

}  // namespace

const Product8Kernels product8_avx512{tile, order<>, kRows, &product8_lookup_avx512, &product8_tables_avx512, peak};

}  // namespace hypersign
