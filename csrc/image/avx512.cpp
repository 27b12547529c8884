// The first layer with AVX-512. In each of 16 lanes, vpdpbusd multiplies four unsigned bytes with four signed ones
// and adds the products to a 32-bit sum, exactly. Four pixels by up to 64 filters share sixteen registers of
// accumulators, so a load of weights serves four pixels, and a broadcast of four bytes serves 64 filters. 64 filters
// are a word of output.
#include <immintrin.h>

#include "image/image.hpp"

namespace hypersign {
namespace {

constexpr int64_t kTaps = kImageTaps, kLanes = kImageLanes;

// `pixels` pixels from `pixel` on, with `blocks` blocks of 16 filters from filter `first`, a multiple of 64, on.
template <int pixels, int blocks>
void tile(const ImageRow &row, int64_t pixel, int64_t first) {
    const int64_t depth = row.fours * kTaps;
    __m512i sum_i32x16[pixels][blocks];
    for (int p = 0; p < pixels; ++p)
        for (int b = 0; b < blocks; ++b)
            sum_i32x16[p][b] = _mm512_loadu_si512(row.start[pixel + p] + first + kLanes * b);
    const uint8_t *patches = row.patches + pixel * depth;
    const int8_t *weights = row.weights + first * depth;
    for (int64_t k = 0; k < depth; k += kTaps) {
        __m512i weights_i8x64[blocks];
        for (int b = 0; b < blocks; ++b)
            weights_i8x64[b] = _mm512_loadu_si512(weights + kLanes * (b * depth + k));
        for (int p = 0; p < pixels; ++p) {
            int32_t four;
            __builtin_memcpy(&four, patches + p * depth + k, 4);
            const __m512i x_u8x64 = _mm512_set1_epi32(four);
            for (int b = 0; b < blocks; ++b)
                sum_i32x16[p][b] = _mm512_dpbusd_epi32(sum_i32x16[p][b], x_u8x64, weights_i8x64[b]);
        }
    }
    const int64_t count = row.filters - first < kLanes * blocks ? row.filters - first : kLanes * blocks;
    const uint64_t valid = ~uint64_t{0} >> (64 - count);
    const int64_t words = ceil_div(row.filters, 64);
    for (int p = 0; p < pixels; ++p) {
        if (row.sums != nullptr) {
            for (int b = 0; b < blocks; ++b)
                _mm512_mask_storeu_epi32(row.sums + (pixel + p) * row.filters + first + kLanes * b,
                                         static_cast<__mmask16>(valid >> (kLanes * b)), sum_i32x16[p][b]);
            continue;
        }
        uint64_t minus = 0, plus = 0;
        for (int b = 0; b < blocks; ++b) {
            const int32_t *low = row.low + first + kLanes * b;
            minus |= static_cast<uint64_t>(_mm512_cmplt_epi32_mask(sum_i32x16[p][b], _mm512_loadu_si512(low)))
                     << (kLanes * b);
            if (row.high == nullptr) continue;
            const int32_t *high = row.high + first + kLanes * b;
            plus |= static_cast<uint64_t>(_mm512_cmpge_epi32_mask(sum_i32x16[p][b], _mm512_loadu_si512(high)))
                    << (kLanes * b);
        }
        const int64_t word = (pixel + p) * words + first / 64;
        const uint64_t negated = minus ^ row.flip[first / 64];
        row.sign[word] = valid & (row.high == nullptr ? negated : negated & (minus | plus));
        if (row.high != nullptr) row.nonzero[word] = valid & (minus | plus);
    }
}

template <int blocks>
void pixels(const ImageRow &row, int64_t first) {
    int64_t pixel = 0;
    for (; pixel + 4 <= row.pixels; pixel += 4) tile<4, blocks>(row, pixel, first);
    for (; pixel < row.pixels; ++pixel) tile<1, blocks>(row, pixel, first);
}

void image_row(const ImageRow &row) {
    for (int64_t first = 0; first < row.filters; first += 64) {
        const int64_t left = row.filters - first;
        if (left > 48)
            pixels<4>(row, first);
        else if (left > 32)
            pixels<3>(row, first);
        else if (left > 16)
            pixels<2>(row, first);
        else
            pixels<1>(row, first);
    }
}

}  // namespace

const ImageKernels image_avx512{image_row};

}  // namespace hypersign
