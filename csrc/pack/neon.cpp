// Packing with NEON. A comparison gives a mask of bytes; "and" with powers of two, and three additions of neighbours,
// make bits of it. The last, partial word of a row is packed number by number.
#include <arm_neon.h>

#include "pack/pack.hpp"

namespace hypersign {
namespace {

// 64 bytes, all ones or all zeros, as 64 bits.
uint64_t bits(uint8x16_t a_u8x16, uint8x16_t b_u8x16, uint8x16_t c_u8x16, uint8x16_t d_u8x16) {
    const uint8x16_t powers_u8x16 = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    const uint8x16_t first_u8x16 = vpaddq_u8(vandq_u8(a_u8x16, powers_u8x16), vandq_u8(b_u8x16, powers_u8x16));
    const uint8x16_t second_u8x16 = vpaddq_u8(vandq_u8(c_u8x16, powers_u8x16), vandq_u8(d_u8x16, powers_u8x16));
    const uint8x16_t fours_u8x16 = vpaddq_u8(first_u8x16, second_u8x16);
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(fours_u8x16, fours_u8x16)), 0);
}

uint8x16_t narrow(uint32x4_t a, uint32x4_t b, uint32x4_t c, uint32x4_t d) {
    const uint16x8_t low_u16x8 = vcombine_u16(vmovn_u32(a), vmovn_u32(b));
    const uint16x8_t high_u16x8 = vcombine_u16(vmovn_u32(c), vmovn_u32(d));
    return vcombine_u8(vmovn_u16(low_u16x8), vmovn_u16(high_u16x8));
}

struct Compare {
    bool nan = false;

    template <class T, class Limit>
    uint64_t below(const T *x, const Limit *limit, int64_t count) {
        if (count == 64) return bits(below16(x, limit), below16(x + 16, limit + 16), below16(x + 32, limit + 32),
                                     below16(x + 48, limit + 48));
        uint64_t word = 0;
        for (int64_t i = 0; i < count; ++i) {
            word |= static_cast<uint64_t>(x[i] < limit[i]) << i;
            nan |= x[i] != x[i];
        }
        return word;
    }

    uint8x16_t below16(const float *x, const float *limit) {
        uint32x4_t below_u32x4[4], ordered_u32x4 = vdupq_n_u32(~0u);
        for (int i = 0; i < 4; ++i) {
            const float32x4_t x_f32x4 = vld1q_f32(x + 4 * i);
            below_u32x4[i] = vcltq_f32(x_f32x4, vld1q_f32(limit + 4 * i));
            ordered_u32x4 = vandq_u32(ordered_u32x4, vceqq_f32(x_f32x4, x_f32x4));
        }
        nan |= vminvq_u32(ordered_u32x4) == 0;
        return narrow(below_u32x4[0], below_u32x4[1], below_u32x4[2], below_u32x4[3]);
    }

    uint8x16_t below16(const double *x, const double *limit) {
        uint32x2_t below_u32x2[8];
        uint64x2_t ordered_u64x2 = vdupq_n_u64(~uint64_t{0});
        for (int i = 0; i < 8; ++i) {
            const float64x2_t x_f64x2 = vld1q_f64(x + 2 * i);
            below_u32x2[i] = vmovn_u64(vcltq_f64(x_f64x2, vld1q_f64(limit + 2 * i)));
            ordered_u64x2 = vandq_u64(ordered_u64x2, vceqq_f64(x_f64x2, x_f64x2));
        }
        nan |= vminvq_u32(vreinterpretq_u32_u64(ordered_u64x2)) == 0;
        return narrow(
            vcombine_u32(below_u32x2[0], below_u32x2[1]), vcombine_u32(below_u32x2[2], below_u32x2[3]),
            vcombine_u32(below_u32x2[4], below_u32x2[5]), vcombine_u32(below_u32x2[6], below_u32x2[7]));
    }

    uint8x16_t below16(const int8_t *x, const int16_t *limit) {
        const int8x16_t x_s8x16 = vld1q_s8(x);
        return below16(vmovl_s8(vget_low_s8(x_s8x16)), vmovl_s8(vget_high_s8(x_s8x16)), limit);
    }

    uint8x16_t below16(const uint8_t *x, const int16_t *limit) {
        const uint8x16_t x_u8x16 = vld1q_u8(x);
        return below16(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x_u8x16))),
                       vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(x_u8x16))), limit);
    }

    static uint8x16_t below16(int16x8_t low_s16x8, int16x8_t high_s16x8, const int16_t *limit) {
        return vcombine_u8(vmovn_u16(vcltq_s16(low_s16x8, vld1q_s16(limit))),
                           vmovn_u16(vcltq_s16(high_s16x8, vld1q_s16(limit + 8))));
    }

    uint8x16_t below16(const int32_t *x, const int64_t *limit) {
        uint32x2_t below_u32x2[8];
        for (int i = 0; i < 8; ++i)
            below_u32x2[i] = vmovn_u64(vcltq_s64(vmovl_s32(vld1_s32(x + 2 * i)), vld1q_s64(limit + 2 * i)));
        return narrow(
            vcombine_u32(below_u32x2[0], below_u32x2[1]), vcombine_u32(below_u32x2[2], below_u32x2[3]),
            vcombine_u32(below_u32x2[4], below_u32x2[5]), vcombine_u32(below_u32x2[6], below_u32x2[7]));
    }
};

template <class T, class Limit>
constexpr Pack<T, Limit> kernel = pack_rows<Compare, T, Limit>;

}  // namespace

const PackKernels pack_neon{kernel<float, float>, kernel<double, double>, kernel<int8_t, int16_t>,
                            kernel<uint8_t, int16_t>, kernel<int32_t, int64_t>};

}  // namespace hypersign
