#include <immintrin.h>

#include <cstring>

#include "training/loops.hpp"

namespace hypersign {
namespace {

struct Local {
    static void compare(const float *x, float clip, uint32_t &minus, uint32_t &inside) {
        minus = inside = 0;
        for (int i = 0; i < 16; i += 8) {
            const __m256 numbers = _mm256_loadu_ps(x + i);
            const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), numbers);
            const __m256 less = _mm256_cmp_ps(numbers, _mm256_setzero_ps(), _CMP_LT_OQ);
            const __m256 within = _mm256_cmp_ps(magnitude, _mm256_set1_ps(clip), _CMP_LT_OQ);
            minus |= static_cast<uint32_t>(_mm256_movemask_ps(less)) << i;
            inside |= static_cast<uint32_t>(_mm256_movemask_ps(within)) << i;
        }
    }

    template <class Vector>
    static void stream(float *to, Vector x) {
        __m256 half[2];
        std::memcpy(half, &x, sizeof x);
        _mm256_stream_ps(to, half[0]);
        _mm256_stream_ps(to + 8, half[1]);
    }
};

}  // namespace

const TrainingKernels training_avx2 = TrainingLoops<Local>::kernels;

}  // namespace hypersign
