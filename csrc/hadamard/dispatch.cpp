#include "hadamard/hadamard.hpp"

namespace hypersign {

const HadamardKernels &hadamard_kernels(Backend backend) {
    switch (backend) {
#if defined(HYPERSIGN_X86)
    case Backend::avx2:
        return hadamard_avx2;
    case Backend::avx512:
        return hadamard_avx512;
#elif defined(HYPERSIGN_NEON)
    case Backend::neon:
        return hadamard_neon;
#endif
    default:
        return hadamard_portable;
    }
}

}  // namespace hypersign
