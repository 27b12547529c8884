#include "image/image.hpp"

namespace hypersign {

const ImageKernels &image_kernels(Backend backend) {
    switch (backend) {
#if defined(HYPERSIGN_X86)
    case Backend::avx2:
        return image_avx2;
    case Backend::avx512:
        return image_avx512;
#elif defined(HYPERSIGN_NEON)
    case Backend::neon:
        return image_neon;
#endif
    default:
        return image_portable;
    }
}

}  // namespace hypersign
