// Levels with AVX-512: a comparison gives the bits of 16 numbers; see elementwise.hpp.

// GCC 12 takes the undefined operand of its own unmasked intrinsics for a variable someone forgot to set.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "elementwise/loops.hpp"

namespace hypersign {
namespace {

struct Local {
    static uint32_t below(const float *x, const float *limit, bool &unordered) {
        const __m512 x_f32x16 = _mm512_loadu_ps(x), limit_f32x16 = _mm512_loadu_ps(limit);
        unordered |= _mm512_cmp_ps_mask(x_f32x16, x_f32x16, _CMP_UNORD_Q) != 0;
        return _mm512_cmp_ps_mask(x_f32x16, limit_f32x16, _CMP_LT_OQ);
    }
};

// With parameters in registers where channels are few: `Registers` of 16, or 0 for any number.
template <int Registers>
bool affine_add_levels(const int32_t *x, int64_t x_stride, const float *scale, const float *shift, const float *other,
                       const float *low, const uint64_t *flip, float *y, uint64_t *sign, int64_t pixels,
                       int64_t channels) {
    constexpr int kKept = Registers > 0 ? Registers : 1;
    __m512 scales[kKept], shifts[kKept], lows[kKept];
    for (int i = 0; i < Registers; ++i) {
        scales[i] = _mm512_loadu_ps(scale + 16 * i);
        shifts[i] = _mm512_loadu_ps(shift + 16 * i);
        lows[i] = _mm512_loadu_ps(low + 16 * i);
    }
    __mmask16 unordered = 0;
    const auto sixteen = [&](int64_t from, __m512 s, __m512 b, __m512 limit) {
        const __m512 number = _mm512_cvtepi32_ps(_mm512_loadu_si512(x + from));
        const __m512 sum = _mm512_add_ps(_mm512_add_ps(_mm512_mul_ps(number, s), b), _mm512_loadu_ps(other + from));
        _mm512_storeu_ps(y + from, sum);
        unordered |= _mm512_cmp_ps_mask(sum, sum, _CMP_UNORD_Q);
        return static_cast<uint64_t>(_mm512_cmp_ps_mask(sum, limit, _CMP_LT_OQ));
    };
    for (int64_t p = 0; p < pixels; ++p, x += x_stride, other += channels, y += channels) {
        if constexpr (Registers > 0) {
            uint64_t minus = 0;
#pragma GCC unroll 4
            for (int i = 0; i < Registers; ++i) minus |= sixteen(16 * i, scales[i], shifts[i], lows[i]) << 16 * i;
            *sign++ = minus ^ flip[0];
        } else {
            for (int64_t start = 0; start < channels; start += 64) {
                uint64_t minus = 0;
                for (int64_t i = start; i < channels && i < start + 64; i += 16)
                    minus |= sixteen(i, _mm512_loadu_ps(scale + i), _mm512_loadu_ps(shift + i), _mm512_loadu_ps(low + i))
                             << (i - start);
                *sign++ = minus ^ flip[start / 64];
            }
        }
    }
    return unordered != 0;
}

bool affine_add_levels(const int32_t *x, int64_t x_stride, const float *scale, const float *shift, const float *other,
                       const float *low, const uint64_t *flip, float *y, uint64_t *sign, int64_t pixels,
                       int64_t channels) {
    const auto run = channels == 16   ? affine_add_levels<1>
                     : channels == 32 ? affine_add_levels<2>
                     : channels == 64 ? affine_add_levels<4>
                                      : affine_add_levels<0>;
    return run(x, x_stride, scale, shift, other, low, flip, y, sign, pixels, channels);
}

constexpr ElementwiseKernels kernels() {
    ElementwiseKernels made = ElementwiseLoops<Local>::kernels;
    made.affine_add_levels = affine_add_levels;
    return made;
}

}  // namespace

const ElementwiseKernels elementwise_avx512 = kernels();

}  // namespace hypersign
