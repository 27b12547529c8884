// 8-bit inputs with AVX2. vpmaddubsw multiplies 32 unsigned bytes (codes) with signed ones and adds neighbours to 16
// bits; vpaddw adds these up, until the sums could pass 16 bits, and vpmaddwd adds them to 32-bit sums.
//
// A mask leaves the codes of one position. They stand for code << shift, so that their sums reach 16 bits sooner;
// the upper half of a byte is moved down first, so that shifts stay below 4, and one instruction moves several
// positions. For one row and ternary codes, 3.25 instructions handle 32 codes: 62 % of a loop of vpmaddubsw and vpaddw.
// Weights of one group have tables instead: many rows of both kinds (avx2_tables.cpp), few of binary ones (avx2_lookup.cpp).
#include <immintrin.h>

#include <algorithm>

#include "inline.hpp"
#include "product8/order.hpp"
#include "product8/product8.hpp"

namespace hypersign {
namespace {

constexpr int kFilters = 8;   // of a register
constexpr int kAhead = 2048;  // bytes

// R rows with the F registers of filters from `filter` on, Q positions of each half of a byte at a time.
template <int bits, int R, int Q, int F>
void rows_of(const Product8Tile &tile, int64_t filter) {
    constexpr int kHalf = 4 / bits;                   // positions of half a byte
    constexpr int kFours = R * kProduct8Quad;         // bytes of the inputs of a step
    constexpr int kAdditions = bits == 1 ? 128 : 64;  // of the largest products of codes at shift 0
    const int64_t part = tile.steps * kFours;
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t group = 0; group < tile.groups; ++group) {
        const uint8_t *weights = tile.weights + group * tile.group_bytes() + filter * kProduct8Quad;
        __m256i codes[R][F];
        for (int r = 0; r < R; ++r)
            for (int f = 0; f < F; ++f) codes[r][f] = _mm256_setzero_si256();
        for (int first = 0; first < kHalf; first += Q) {
            const int8_t *x = tile.x + (group * 2 * kHalf + first) * part;
            const int64_t at_once = (kAdditions >> ((first + Q - 1) * bits)) / 2;  // two products per step
            __m256i mask[Q];
            for (int q = 0; q < Q; ++q)
                mask[q] = _mm256_set1_epi8(static_cast<char>(((1 << bits) - 1) << ((first + q) * bits)));
            for (int64_t start = 0; start < tile.steps; start += at_once) {
                __m256i pairs[R][Q][F];
                for (int r = 0; r < R; ++r)
                    for (int q = 0; q < Q; ++q)
                        for (int f = 0; f < F; ++f) pairs[r][q][f] = _mm256_setzero_si256();
                const int64_t end = std::min(start + at_once, tile.steps);
                for (int64_t step = start; step < end; ++step) {
                    const uint8_t *from = weights + step * kProduct8Step;
                    if (R == 1) {  // little work per weight: memory is the bottleneck
                        __builtin_prefetch(from + kAhead, 0, 3);
                        __builtin_prefetch(from + kAhead + 64, 0, 3);
                    }
                    __m256i bytes[2][F];  // as they are, and with the upper half moved down
                    for (int f = 0; f < F; ++f) {
                        bytes[0][f] = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + 32 * f));
                        bytes[1][f] = _mm256_srli_epi16(bytes[0][f], 4);
                    }
                    for (int q = 0; q < Q; ++q)
                        for (int half = 0; half < 2; ++half) {
                            __m256i picked[F];
                            for (int f = 0; f < F; ++f) picked[f] = _mm256_and_si256(bytes[half][f], mask[q]);
                            for (int r = 0; r < R; ++r) {
                                int32_t four;
                                std::memcpy(&four, x + (q + half * kHalf) * part + step * kFours + r * kProduct8Quad, 4);
                                const __m256i fours = _mm256_set1_epi32(four);
                                for (int f = 0; f < F; ++f)
                                    pairs[r][q][f] =
                                        _mm256_add_epi16(pairs[r][q][f], _mm256_maddubs_epi16(picked[f], fours));
                            }
                        }
                }
                for (int r = 0; r < R; ++r)
                    for (int q = 0; q < Q; ++q)
                        for (int f = 0; f < F; ++f)
                            codes[r][f] = _mm256_add_epi32(
                                codes[r][f],
                                _mm256_srai_epi32(_mm256_madd_epi16(pairs[r][q][f], ones), (first + q) * bits));
            }
        }
        for (int r = 0; r < R; ++r)
            for (int f = 0; f < F; ++f) {
                int32_t sums[kFilters];
                _mm256_storeu_si256(reinterpret_cast<__m256i *>(sums), codes[r][f]);
                const int64_t at = filter + kFilters * f, count = std::min<int64_t>(kFilters, tile.count - at);
                for (int64_t i = 0; i < count; ++i) product8_put(tile, r, group, at + i, sums[i]);
            }
    }
}

template <int bits, int R, int Q, int F>
void all_filters(const Product8Tile &tile) {
    for (int64_t filter = 0; filter < tile.count; filter += kFilters * F) rows_of<bits, R, Q, F>(tile, filter);
}

// Inputs, masks and 16-bit sums must fit in 16 registers.
template <int bits>
void all_rows(const Product8Tile &tile) {
    if (tile.rows == 1)
        all_filters<bits, 1, 2, 2>(tile);
    else if (tile.rows == 2)
        all_filters<bits, 2, 2, 2>(tile);
    else
        all_filters<bits, 4, 1, 2>(tile);
}

void tile(const Product8Tile &tile) { tile.bits == 1 ? all_rows<1>(tile) : all_rows<2>(tile); }

int64_t peak(int64_t rounds) {
    constexpr int kSums = 8;
    __m256i x = _mm256_set1_epi32(static_cast<int>(rounds)), sum[kSums], w[4];
    for (int i = 0; i < 4; ++i) w[i] = _mm256_set1_epi32(i);
    for (int i = 0; i < kSums; ++i) sum[i] = x;
    for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 8
        for (int i = 0; i < kSums; ++i) {
            if (i % 4 == 0) __asm__ volatile("" : "+x"(x));  // as if x were new each time
            sum[i] = _mm256_add_epi16(sum[i], _mm256_maddubs_epi16(w[i % 4], x));
        }
    for (int i = 0; i < kSums; ++i) __asm__ volatile("" : : "x"(sum[i]));
    return rounds * kSums * 32;
}

}  // namespace

const Product8Kernels product8_avx2{tile, order<>, 4, &product8_lookup_avx2, &product8_tables_avx2, peak};

}  // namespace hypersign
