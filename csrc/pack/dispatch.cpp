#include "pack/pack.hpp"

namespace hypersign {

const PackKernels &pack_kernels(Backend backend) {
    switch (backend) {
#if defined(HYPERSIGN_X86)
    case Backend::avx2:
        return pack_avx2;
    case Backend::avx512:
        return pack_avx512;
#elif defined(HYPERSIGN_NEON)
    case Backend::neon:
        return pack_neon;
#endif
    default:
        return pack_portable;
    }
}

}  // namespace hypersign
