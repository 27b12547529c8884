#include "hamming/hamming.hpp"

namespace hypersign {

const HammingKernels &hamming_kernels(Backend backend) {
    switch (backend) {
#if defined(HYPERSIGN_X86)
    case Backend::avx2:
        return hamming_avx2;
    case Backend::avx512:
        return hamming_avx512;
#elif defined(HYPERSIGN_NEON)
    case Backend::neon:
        return hamming_neon;
#endif
    default:
        return hamming_portable;
    }
}

}  // namespace hypersign
