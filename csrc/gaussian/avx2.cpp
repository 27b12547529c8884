#include <immintrin.h>

#include "gaussian/vectors.hpp"

namespace hypersign {
namespace {

struct Machine {
    static inline Floats root(Floats x) { return (Floats)_mm256_sqrt_ps((__m256)x); }
    static inline Floats choose(Floats sign, Floats minus, Floats plus) {
        return (Floats)_mm256_blendv_ps((__m256)plus, (__m256)minus, (__m256)sign);
    }
};

}  // namespace

const GaussianKernels gaussian_avx2{Gaussian<Machine>::row, Gaussian<Machine>::sums};

}  // namespace hypersign
