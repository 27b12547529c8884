// Levels with AVX2: the signs of a comparison are gathered from eight numbers at a time; see elementwise.hpp.
#include <immintrin.h>

#include "elementwise/loops.hpp"

namespace hypersign {
namespace {

struct Local {
    static uint32_t below(const float *x, const float *limit, bool &unordered) {
        uint32_t bits = 0;
        for (int i = 0; i < 16; i += 8) {
            const __m256 x_f32x8 = _mm256_loadu_ps(x + i), limit_f32x8 = _mm256_loadu_ps(limit + i);
            bits |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x_f32x8, limit_f32x8, _CMP_LT_OQ))) << i;
            unordered |= _mm256_movemask_ps(_mm256_cmp_ps(x_f32x8, x_f32x8, _CMP_UNORD_Q)) != 0;
        }
        return bits;
    }
};

}  // namespace

const ElementwiseKernels elementwise_avx2 = ElementwiseLoops<Local>::kernels;

}  // namespace hypersign
