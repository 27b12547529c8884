#include "moments/moments.hpp"

namespace hypersign {

// With AVX2 it is faster than weights come from memory: wider registers would wait.
const MomentsKernels &moments_kernels(Backend backend) {
#if defined(HYPERSIGN_X86)
    if (backend == Backend::avx2 || backend == Backend::avx512) return moments_avx2;
#endif
    (void)backend;
    return moments_portable;
}

}  // namespace hypersign
