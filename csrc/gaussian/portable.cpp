#include <cmath>

#include "gaussian/vectors.hpp"

namespace hypersign {
namespace {

struct Root {
    static inline Floats of(Floats x) {
        for (int lane = 0; lane < GAUSSIAN_LANES; ++lane) x[lane] = std::sqrt(x[lane]);
        return x;
    }
};

}  // namespace

const GaussianKernels gaussian_portable{Gaussian<Root>::row, Gaussian<Root>::sums};

}  // namespace hypersign
