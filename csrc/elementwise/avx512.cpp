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

}  // namespace

const ElementwiseKernels elementwise_avx512 = ElementwiseLoops<Local>::kernels;

}  // namespace hypersign
