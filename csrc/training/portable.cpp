#include <cmath>
#include <cstring>

#include "training/loops.hpp"

namespace hypersign {
namespace {

struct Local {
    static void compare(const float *x, float clip, uint32_t &minus, uint32_t &inside) {
        minus = inside = 0;
        for (int i = 0; i < 16; ++i) {
            minus |= static_cast<uint32_t>(x[i] < 0) << i;
            inside |= static_cast<uint32_t>(std::fabs(x[i]) < clip) << i;
        }
    }

    template <class Vector>
    static void stream(float *to, Vector x) {
        std::memcpy(to, &x, sizeof x);
    }
};

}  // namespace

const TrainingKernels training_portable = TrainingLoops<Local>::kernels;

}  // namespace hypersign
