// Packing with AVX-512. The comparison of a register gives its bits; memory is the bottleneck.
#include <immintrin.h>

#include <type_traits>

#include "pack/pack.hpp"

namespace hypersign {
namespace {

// A mask of the numbers left, `count` - `done` of them.
uint64_t left(int64_t count, int64_t done) {
    const int64_t bits = count - done;
    return bits <= 0 ? 0 : bits >= 64 ? ~uint64_t{0} : ~uint64_t{0} >> (64 - bits);
}

struct Compare {
    bool nan = false;

    uint64_t below(const float *x, const float *limit, int64_t count) {
        uint64_t word = 0;
        for (int i = 0; i < 64; i += 16) {
            const auto valid = static_cast<__mmask16>(left(count, i));
            const __m512 x_f32x16 = _mm512_maskz_loadu_ps(valid, x + i);
            const __m512 limit_f32x16 = _mm512_maskz_loadu_ps(valid, limit + i);
            word |= static_cast<uint64_t>(_mm512_cmp_ps_mask(x_f32x16, limit_f32x16, _CMP_LT_OQ)) << i;
            nan |= _mm512_cmp_ps_mask(x_f32x16, x_f32x16, _CMP_UNORD_Q) != 0;
        }
        return word;
    }

    uint64_t below(const double *x, const double *limit, int64_t count) {
        uint64_t word = 0;
        for (int i = 0; i < 64; i += 8) {
            const auto valid = static_cast<__mmask8>(left(count, i));
            const __m512d x_f64x8 = _mm512_maskz_loadu_pd(valid, x + i);
            const __m512d limit_f64x8 = _mm512_maskz_loadu_pd(valid, limit + i);
            word |= static_cast<uint64_t>(_mm512_cmp_pd_mask(x_f64x8, limit_f64x8, _CMP_LT_OQ)) << i;
            nan |= _mm512_cmp_pd_mask(x_f64x8, x_f64x8, _CMP_UNORD_Q) != 0;
        }
        return word;
    }

    template <class T>
    uint64_t below(const T *x, const int16_t *limit, int64_t count) {
        uint64_t word = 0;
        for (int i = 0; i < 64; i += 32) {
            const auto valid = static_cast<__mmask32>(left(count, i));
            const __m256i x_i8x32 = _mm256_maskz_loadu_epi8(valid, x + i);
            const __m512i x_i16x32 =
                std::is_signed_v<T> ? _mm512_cvtepi8_epi16(x_i8x32) : _mm512_cvtepu8_epi16(x_i8x32);
            const __m512i limit_i16x32 = _mm512_maskz_loadu_epi16(valid, limit + i);
            word |= static_cast<uint64_t>(_mm512_cmplt_epi16_mask(x_i16x32, limit_i16x32)) << i;
        }
        return word;
    }

    uint64_t below(const int32_t *x, const int64_t *limit, int64_t count) {
        uint64_t word = 0;
        for (int i = 0; i < 64; i += 8) {
            const auto valid = static_cast<__mmask8>(left(count, i));
            const __m512i x_i64x8 = _mm512_maskz_cvtepi32_epi64(valid, _mm256_maskz_loadu_epi32(valid, x + i));
            const __m512i limit_i64x8 = _mm512_maskz_loadu_epi64(valid, limit + i);
            word |= static_cast<uint64_t>(_mm512_cmplt_epi64_mask(x_i64x8, limit_i64x8)) << i;
        }
        return word;
    }
};

template <class T, class Limit>
constexpr Pack<T, Limit> kernel = pack_rows<Compare, T, Limit>;

}  // namespace

const PackKernels pack_avx512{kernel<float, float>, kernel<double, double>, kernel<int8_t, int16_t>,
                              kernel<uint8_t, int16_t>, kernel<int32_t, int64_t>};

}  // namespace hypersign
