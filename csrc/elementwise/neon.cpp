// Levels with NEON: a comparison gives a mask of bytes; "and" with powers of two, and three additions of neighbours, make
// bits of it; see elementwise.hpp.
#include <arm_neon.h>

#include "elementwise/loops.hpp"

namespace hypersign {
namespace {

struct Local {
    static uint32_t below(const float *x, const float *limit, bool &unordered) {
        uint16x4_t below_u16x4[4];
        uint32x4_t ordered_u32x4 = vdupq_n_u32(~0u);
        for (int i = 0; i < 4; ++i) {
            const float32x4_t x_f32x4 = vld1q_f32(x + 4 * i);
            below_u16x4[i] = vmovn_u32(vcltq_f32(x_f32x4, vld1q_f32(limit + 4 * i)));
            ordered_u32x4 = vandq_u32(ordered_u32x4, vceqq_f32(x_f32x4, x_f32x4));
        }
        unordered |= vminvq_u32(ordered_u32x4) == 0;
        const uint8x16_t below_u8x16 = vcombine_u8(vmovn_u16(vcombine_u16(below_u16x4[0], below_u16x4[1])),
                                                   vmovn_u16(vcombine_u16(below_u16x4[2], below_u16x4[3])));
        uint8x16_t sums_u8x16 = vandq_u8(below_u8x16, vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201)));
        for (int i = 0; i < 3; ++i) sums_u8x16 = vpaddq_u8(sums_u8x16, sums_u8x16);
        return vgetq_lane_u16(vreinterpretq_u16_u8(sums_u8x16), 0);
    }
};

}  // namespace

const ElementwiseKernels elementwise_neon = ElementwiseLoops<Local>::kernels;

}  // namespace hypersign
