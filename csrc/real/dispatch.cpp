#include "real/real.hpp"

namespace hypersign {

const RealKernels &real_kernels(Backend backend) {
    switch (backend) {
#if defined(HYPERSIGN_X86)
    case Backend::avx2:
        return real_avx2;
    case Backend::avx512:
        return real_avx512;
#elif defined(HYPERSIGN_NEON)
    case Backend::neon:
        return real_neon;
#endif
    default:
        return real_portable;
    }
}

}  // namespace hypersign
