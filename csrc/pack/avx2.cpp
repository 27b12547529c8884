// Packing with AVX2. A comparison gives a mask of lanes, and movemask its bits. The last, partial word of a row is
// packed number by number.
#include <immintrin.h>

#include <type_traits>

#include "pack/pack.hpp"

namespace hypersign {
namespace {

struct Compare {
    bool nan = false;

    template <class T, class Limit>
    uint64_t below(const T *x, const Limit *limit, int64_t count) {
        if (count == 64) return whole(x, limit);
        uint64_t word = 0;
        for (int64_t i = 0; i < count; ++i) {
            word |= static_cast<uint64_t>(x[i] < limit[i]) << i;
            nan |= x[i] != x[i];
        }
        return word;
    }

    uint64_t whole(const float *x, const float *limit) {
        uint64_t word = 0;
        __m256 unordered_f32x8 = _mm256_setzero_ps();
        for (int i = 0; i < 64; i += 8) {
            const __m256 x_f32x8 = _mm256_loadu_ps(x + i);
            const __m256 below_f32x8 = _mm256_cmp_ps(x_f32x8, _mm256_loadu_ps(limit + i), _CMP_LT_OQ);
            word |= static_cast<uint64_t>(_mm256_movemask_ps(below_f32x8)) << i;
            unordered_f32x8 = _mm256_or_ps(unordered_f32x8, _mm256_cmp_ps(x_f32x8, x_f32x8, _CMP_UNORD_Q));
        }
        nan |= _mm256_movemask_ps(unordered_f32x8) != 0;
        return word;
    }

    uint64_t whole(const double *x, const double *limit) {
        uint64_t word = 0;
        __m256d unordered_f64x4 = _mm256_setzero_pd();
        for (int i = 0; i < 64; i += 4) {
            const __m256d x_f64x4 = _mm256_loadu_pd(x + i);
            const __m256d below_f64x4 = _mm256_cmp_pd(x_f64x4, _mm256_loadu_pd(limit + i), _CMP_LT_OQ);
            word |= static_cast<uint64_t>(_mm256_movemask_pd(below_f64x4)) << i;
            unordered_f64x4 = _mm256_or_pd(unordered_f64x4, _mm256_cmp_pd(x_f64x4, x_f64x4, _CMP_UNORD_Q));
        }
        nan |= _mm256_movemask_pd(unordered_f64x4) != 0;
        return word;
    }

    template <class T>
    uint64_t whole(const T *x, const int16_t *limit) {
        uint64_t word = 0;
        for (int i = 0; i < 64; i += 32) {
            const __m256i first_i16x16 = below16(x + i, limit + i);
            const __m256i second_i16x16 = below16(x + i + 16, limit + i + 16);
            // Packing interleaves the halves of its arguments; the permutation puts them in order.
            const __m256i below_i8x32 =
                _mm256_permute4x64_epi64(_mm256_packs_epi16(first_i16x16, second_i16x16), 0xD8);
            word |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(below_i8x32))) << i;
        }
        return word;
    }

    template <class T>
    static __m256i below16(const T *x, const int16_t *limit) {
        const __m128i x_i8x16 = _mm_loadu_si128(reinterpret_cast<const __m128i *>(x));
        const __m256i x_i16x16 =
            std::is_signed_v<T> ? _mm256_cvtepi8_epi16(x_i8x16) : _mm256_cvtepu8_epi16(x_i8x16);
        return _mm256_cmpgt_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(limit)), x_i16x16);
    }

    uint64_t whole(const int32_t *x, const int64_t *limit) {
        uint64_t word = 0;
        for (int i = 0; i < 64; i += 4) {
            const __m256i x_i64x4 =
                _mm256_cvtepi32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i *>(x + i)));
            const __m256i limit_i64x4 = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(limit + i));
            const __m256i below_i64x4 = _mm256_cmpgt_epi64(limit_i64x4, x_i64x4);
            word |= static_cast<uint64_t>(_mm256_movemask_pd(_mm256_castsi256_pd(below_i64x4))) << i;
        }
        return word;
    }
};

template <class T, class Limit>
constexpr Pack<T, Limit> kernel = pack_rows<Compare, T, Limit>;

}  // namespace

const PackKernels pack_avx2{kernel<float, float>, kernel<double, double>, kernel<int8_t, int16_t>,
                            kernel<uint8_t, int16_t>, kernel<int32_t, int64_t>};

}  // namespace hypersign
