// vpmaddubsw multiplies two unsigned bytes with two signed ones in each of 16 lanes and adds them up, in 16 bits.
// Those hold the sums of as many taps as the largest weight allows: of 32 fours for weights of 2, and of one at
// least, since weights are at most 64 and 2 * 255 * 64 < 2^15. So a four of taps takes two instructions for 8
// filters; vpmaddwd brings pairs of 16 bits to 32 at the end. Zen multiplies on two ports: 4 cycles for a four of 4
// pixels and 16 filters, which share eight registers of sums.
//
// Instructions: Intel Intrinsics Guide; ports: uops.info, tables of VPMADDUBSW and VPMADDWD (YMM).
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "image/image.hpp"

namespace hypersign {
namespace {

constexpr int64_t TAPS = 4, LANES = 16;

// Sums of 16 filters of a pixel.
struct Sums {
    __m256i half[2];
};

// Calls done(p, sums) with the sums of taps [first, last) of pixels and 16 filters, which fit in 16 bits, and of `start`.
template <int pixels, typename Done>
inline void add_taps(const ImageRow &row, int64_t pixel, int64_t block, int64_t first, int64_t last,
                     const int32_t *const *start, Done &&done) {
    const int64_t depth = row.fours * TAPS;
    const uint8_t *patches = row.patches + pixel * depth;
    auto weights = reinterpret_cast<const __m256i *>(row.weights + block * LANES * depth) + 2 * first / TAPS;
    __m256i sum_i16x16[pixels][2];
#pragma GCC unroll 4
    for (int p = 0; p < pixels; ++p) sum_i16x16[p][0] = sum_i16x16[p][1] = _mm256_setzero_si256();
    for (int64_t k = first; k < last; k += TAPS, weights += 2) {
        const __m256i weights_i8x32[2] = {_mm256_loadu_si256(weights), _mm256_loadu_si256(weights + 1)};
#pragma GCC unroll 4
        for (int p = 0; p < pixels; ++p) {
            int32_t four;
            std::memcpy(&four, patches + p * depth + k, sizeof four);
            const __m256i x_u8x32 = _mm256_set1_epi32(four);
#pragma GCC unroll 2
            for (int half = 0; half < 2; ++half)
                sum_i16x16[p][half] =
                    _mm256_add_epi16(sum_i16x16[p][half], _mm256_maddubs_epi16(x_u8x32, weights_i8x32[half]));
        }
    }
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 4
    for (int p = 0; p < pixels; ++p) {
        auto from = reinterpret_cast<const __m256i *>(start[p]);
        done(p, Sums{{_mm256_add_epi32(_mm256_loadu_si256(from), _mm256_madd_epi16(sum_i16x16[p][0], ones)),
                      _mm256_add_epi32(_mm256_loadu_si256(from + 1), _mm256_madd_epi16(sum_i16x16[p][1], ones))}});
    }
}

// `room`: bytes of taps whose sums fit in 16 bits.
template <int pixels>
void tile(const ImageRow &row, int64_t pixel, int64_t block, int64_t room) {
    const int64_t depth = row.fours * TAPS;
    alignas(32) int32_t sums[pixels][LANES];
    const int32_t *start[pixels];
    for (int p = 0; p < pixels; ++p) start[p] = row.start[pixel + p] + block * LANES;
    auto keep = [&](int p, const Sums &found) {
        std::memcpy(sums[p], &found, sizeof found);
        start[p] = sums[p];
    };
    int64_t k = 0;
    for (; k + room < depth; k += room) add_taps<pixels>(row, pixel, block, k, k + room, start, keep);
    if (row.sums != nullptr || row.high != nullptr || row.filters - block * LANES < LANES) {
        add_taps<pixels>(row, pixel, block, k, depth, start, keep);
        for (int p = 0; p < pixels; ++p) image_finish(row, pixel + p, block, sums[p]);
        return;
    }
    const int64_t words = (row.filters + 63) / 64, piece = block % 4;
    uint64_t *const sign = row.sign + pixel * words + block / 4;
    const auto flip = static_cast<uint32_t>(row.flip[block / 4] >> piece * LANES & 0xffff);
    auto low = reinterpret_cast<const __m256i *>(row.low + block * LANES);
    add_taps<pixels>(row, pixel, block, k, depth, start, [&](int p, const Sums &found) {
        auto below = [&](int half) {
            const __m256i less = _mm256_cmpgt_epi32(_mm256_loadu_si256(low + half), found.half[half]);
            return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(less)));
        };
        const uint32_t levels = (below(0) | below(1) << 8) ^ flip;
        const auto bits = static_cast<uint16_t>(levels);
        if (piece == 0)
            sign[p * words] = levels;  // its other pieces, if any, are written after
        else
            std::memcpy(reinterpret_cast<uint8_t *>(sign + p * words) + 2 * piece, &bits, sizeof bits);
    });
}

void image_row(const ImageRow &row) {
    const int64_t largest = std::max<int64_t>(1, row.largest);
    const int64_t room = TAPS * std::max<int64_t>(1, INT16_MAX / (2 * UINT8_MAX * largest));
    for (int64_t block = 0; block * LANES < row.filters; ++block) {
        int64_t pixel = 0;
        for (; pixel + 4 <= row.pixels; pixel += 4) tile<4>(row, pixel, block, room);
        for (; pixel < row.pixels; ++pixel) tile<1>(row, pixel, block, room);
    }
}

}  // namespace

const ImageKernels image_avx2{image_row};

}  // namespace hypersign
