// Two instructions multiply four unsigned bytes with four signed ones in each of 8 lanes: vpmaddubsw adds up pairs in
// 16 bits, which hold them, since weights are at most 64 and 2 * 255 * 64 < 2^15; vpmaddwd adds the pairs up. Four
// pixels by 16 filters share eight registers of sums.
#include <immintrin.h>

#include "image/image.hpp"

namespace hypersign {
namespace {

constexpr int64_t TAPS = 4, LANES = 16;

template <int pixels>
void tile(const ImageRow &row, int64_t pixel, int64_t block) {
    const int64_t depth = row.fours * TAPS;
    const __m256i one_i16x16 = _mm256_set1_epi16(1);
    __m256i sum_i32x8[pixels][2];
    for (int p = 0; p < pixels; ++p)
        for (int half = 0; half < 2; ++half)
            sum_i32x8[p][half] = _mm256_loadu_si256(
                reinterpret_cast<const __m256i *>(row.start[pixel + p] + block * LANES + 8 * half));
    const uint8_t *patches = row.patches + pixel * depth;
    const int8_t *weights = row.weights + block * LANES * depth;
    for (int64_t k = 0; k < depth; k += TAPS) {
        __m256i weights_i8x32[2];
        for (int half = 0; half < 2; ++half)
            weights_i8x32[half] =
                _mm256_loadu_si256(reinterpret_cast<const __m256i *>(weights + k * LANES + 32 * half));
        for (int p = 0; p < pixels; ++p) {
            int32_t four;
            __builtin_memcpy(&four, patches + p * depth + k, 4);
            const __m256i x_u8x32 = _mm256_set1_epi32(four);
            for (int half = 0; half < 2; ++half) {
                const __m256i pairs_i16x16 = _mm256_maddubs_epi16(x_u8x32, weights_i8x32[half]);
                sum_i32x8[p][half] =
                    _mm256_add_epi32(sum_i32x8[p][half], _mm256_madd_epi16(pairs_i16x16, one_i16x16));
            }
        }
    }
    for (int p = 0; p < pixels; ++p) {
        alignas(32) int32_t sums[LANES];
        for (int half = 0; half < 2; ++half)
            _mm256_store_si256(reinterpret_cast<__m256i *>(sums + 8 * half), sum_i32x8[p][half]);
        if (row.sums != nullptr || row.high != nullptr || row.filters - block * LANES < LANES) {
            image_finish(row, pixel + p, block, sums);
            continue;
        }
        uint64_t minus = 0;
        for (int half = 0; half < 2; ++half) {
            const __m256i low_i32x8 =
                _mm256_loadu_si256(reinterpret_cast<const __m256i *>(row.low + block * LANES + 8 * half));
            const __m256 below = _mm256_castsi256_ps(_mm256_cmpgt_epi32(low_i32x8, sum_i32x8[p][half]));
            minus |= static_cast<uint64_t>(_mm256_movemask_ps(below)) << (8 * half);
        }
        const int64_t word = (pixel + p) * ((row.filters + 63) / 64) + block / 4, at = block % 4 * LANES;
        const uint64_t levels = minus ^ (row.flip[block / 4] >> at & 0xFFFF);
        row.sign[word] = (at == 0 ? 0 : row.sign[word]) | levels << at;
    }
}

void image_row(const ImageRow &row) {
    for (int64_t block = 0; block * LANES < row.filters; ++block) {
        int64_t pixel = 0;
        for (; pixel + 4 <= row.pixels; pixel += 4) tile<4>(row, pixel, block);
        for (; pixel < row.pixels; ++pixel) tile<1>(row, pixel, block);
    }
}

}  // namespace

const ImageKernels image_avx2{image_row};

}  // namespace hypersign
