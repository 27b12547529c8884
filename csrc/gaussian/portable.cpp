#include <cmath>

#include "gaussian/vectors.hpp"

namespace hypersign {
namespace {

struct Machine {
    static inline Floats root(Floats x) {
        for (int lane = 0; lane < kGaussianLanes; ++lane) x[lane] = std::sqrt(x[lane]);
        return x;
    }
    static inline Floats choose(Floats sign, Floats minus, Floats plus) { return (Ints)sign < 0 ? minus : plus; }
};

}  // namespace

const GaussianKernels gaussian_portable{Gaussian<Machine>::row, Gaussian<Machine>::sums};

}  // namespace hypersign
