// The first layer with AVX2. In each of 16 lanes, vpmaddubsw multiplies two unsigned bytes with two signed ones and
// adds the products, in 16 bits. How many taps those hold depends on the largest weight: 32 fours of taps for weights
// of 2, and at least one four, because weights are at most 64 and 2 * 255 * 64 < 2^15. So a four of taps takes two
// instructions for 8 filters. Zen multiplies on two ports: 4 cycles for a four of taps, 4 pixels and 16 filters,
// which share eight registers of accumulators.
//
// vpmaddwd widens pairs of 16 bits to 32. Levels whose sums fit in 16 bits come from tables (image/avx2_tables.cpp).
//
// Instructions: Intel Intrinsics Guide; ports: uops.info, tables of VPMADDUBSW and VPMADDWD (YMM).
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "image/image.hpp"
#include "inline.hpp"

namespace hypersign {
namespace {

constexpr int64_t kTaps = kImageTaps, kLanes = kImageLanes;

// Accumulators of 16 filters and some pixels in 16 bits: two lanes per filter, 8 filters per register. Each is a
// member of its own, because the compiler would keep an array in memory.
template <int pixels>
struct Accumulators {
    __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();
    Accumulators<pixels - 1> rest;

    // Adds a four of taps.
    HYPERSIGN_INLINE void add(const uint8_t *patch, int64_t depth, const __m256i &weights_low,
                              const __m256i &weights_high) {
        int32_t four;
        std::memcpy(&four, patch, sizeof four);
        const __m256i x_u8x32 = _mm256_set1_epi32(four);
        low = _mm256_add_epi16(low, _mm256_maddubs_epi16(x_u8x32, weights_low));
        high = _mm256_add_epi16(high, _mm256_maddubs_epi16(x_u8x32, weights_high));
        rest.add(patch + depth, depth, weights_low, weights_high);
    }
};

template <>
struct Accumulators<0> {
    HYPERSIGN_INLINE void add(const uint8_t *, int64_t, const __m256i &, const __m256i &) {}
};

// Adds taps [first, last), which fit 16 bits.
template <int pixels>
HYPERSIGN_INLINE Accumulators<pixels> add_taps(const ImageRow &row, int64_t pixel, int64_t block, int64_t first, int64_t last) {
    const int64_t depth = row.fours * kTaps;
    const uint8_t *patches = row.patches + pixel * depth;
    auto weights = reinterpret_cast<const __m256i *>(row.weights + block * kLanes * depth) + 2 * first / kTaps;
    Accumulators<pixels> accumulators;
#pragma GCC unroll 4
    for (int64_t k = first; k < last; k += kTaps, weights += 2)
        accumulators.add(patches + k, depth, _mm256_loadu_si256(weights), _mm256_loadu_si256(weights + 1));
    return accumulators;
}

// The sums of all taps, in 32 bits.
struct Whole {
    __m256i low, high;
};

HYPERSIGN_INLINE void widen(const Accumulators<0> &, Whole *) {}

template <int pixels>
HYPERSIGN_INLINE void widen(const Accumulators<pixels> &sums, Whole *to) {
    const __m256i ones = _mm256_set1_epi16(1);
    to->low = _mm256_add_epi32(to->low, _mm256_madd_epi16(sums.low, ones));
    to->high = _mm256_add_epi32(to->high, _mm256_madd_epi16(sums.high, ones));
    widen(sums.rest, to + 1);
}

// `capacity`: taps whose sums fit in 16 bits.
template <int pixels>
void tile(const ImageRow &row, int64_t pixel, int64_t block, int64_t capacity) {
    const int64_t depth = row.fours * kTaps;
    Whole sums[pixels];
    for (int p = 0; p < pixels; ++p) std::memcpy(&sums[p], row.start[pixel + p] + block * kLanes, sizeof sums[p]);
    for (int64_t k = 0; k < depth; k += capacity)
        widen(add_taps<pixels>(row, pixel, block, k, std::min(k + capacity, depth)), sums);
    for (int p = 0; p < pixels; ++p) {
        int32_t of[kLanes];
        std::memcpy(of, &sums[p], sizeof of);
        image_epilogue(row, pixel + p, block, of);
    }
}

void image_row(const ImageRow &row) {
    const int64_t capacity = kTaps * std::max<int64_t>(1, INT16_MAX / (2 * UINT8_MAX * std::max<int64_t>(1, row.largest)));
    for (int64_t block = 0; block * kLanes < row.filters; ++block) {
        int64_t pixel = 0;
        for (; pixel + 4 <= row.pixels; pixel += 4) tile<4>(row, pixel, block, capacity);
        for (; pixel < row.pixels; ++pixel) tile<1>(row, pixel, block, capacity);
    }
}

}  // namespace

const ImageKernels image_avx2{image_row, &image_tables_avx2};

}  // namespace hypersign
