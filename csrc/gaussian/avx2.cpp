#include <immintrin.h>

#include "gaussian/vectors.hpp"

namespace hypersign {
namespace {

struct Root {
    static inline Floats of(Floats x) { return (Floats)_mm256_sqrt_ps((__m256)x); }
};

}  // namespace

const GaussianKernels gaussian_avx2{Gaussian<Root>::row, Gaussian<Root>::sums};

}  // namespace hypersign
