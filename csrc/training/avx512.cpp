#include "avx512.hpp"
#include "training/loops.hpp"

namespace hypersign {
namespace {

struct Local {
    static void compare(const float *x, float clip, uint32_t &minus, uint32_t &inside) {
        const __m512 x_f32x16 = _mm512_loadu_ps(x);
        const __m512 magnitude_f32x16 = _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x_f32x16);
        minus = _mm512_cmp_ps_mask(x_f32x16, _mm512_setzero_ps(), _CMP_LT_OQ);
        inside = _mm512_cmp_ps_mask(magnitude_f32x16, _mm512_set1_ps(clip), _CMP_LT_OQ);
    }

    template <class Vector>
    static void stream(float *to, Vector x) {
        _mm512_stream_ps(to, reinterpret_cast<__m512>(x));
    }
};

}  // namespace

const TrainingKernels training_avx512 = TrainingLoops<Local>::kernels;

}  // namespace hypersign
