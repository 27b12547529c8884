#include "elementwise/loops.hpp"

namespace hypersign {
namespace {

struct Local {
    static uint32_t below(const float *x, const float *limit, bool &unordered) {
        uint32_t bits = 0;
        bool ordered = true;
        for (int i = 0; i < 16; ++i) {
            bits |= static_cast<uint32_t>(x[i] < limit[i]) << i;
            ordered &= x[i] == x[i];
        }
        unordered |= !ordered;
        return bits;
    }
};

}  // namespace

const ElementwiseKernels elementwise_portable = ElementwiseLoops<Local>::kernels;

}  // namespace hypersign
