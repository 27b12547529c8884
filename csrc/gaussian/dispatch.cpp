#include "gaussian/gaussian.hpp"

namespace hypersign {

// Eight lanes are 32 bytes: wider registers have nothing to hold, and NEON's are what the compiler makes of them.
const GaussianKernels &gaussian_kernels(Backend backend) {
#if defined(HYPERSIGN_X86)
    if (backend == Backend::avx2 || backend == Backend::avx512) return gaussian_avx2;
#endif
    (void)backend;
    return gaussian_portable;
}

}  // namespace hypersign
