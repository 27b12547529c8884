// The first layer with NEON. Bytes are widened to 16 bits; one instruction multiplies four of them and adds to four
// 32-bit sums. Every 64-bit ARM has it (the dot product of bytes came later, and the one of mixed signs later still).
// Two pixels by 16 filters share eight registers of accumulators.
#include <arm_neon.h>

#include "image/image.hpp"

namespace hypersign {
namespace {

constexpr int64_t kTaps = kImageTaps, kLanes = kImageLanes;

template <int pixels>
void tile(const ImageRow &row, int64_t pixel, int64_t block) {
    const int64_t depth = row.fours * kTaps;
    int32x4_t sum_s32x4[pixels][4];
    for (int p = 0; p < pixels; ++p)
        for (int part = 0; part < 4; ++part)
            sum_s32x4[p][part] = vld1q_s32(row.start[pixel + p] + block * kLanes + 4 * part);
    const uint8_t *patches = row.patches + pixel * depth;
    const int8_t *weights = row.weights + block * kLanes * depth;
    for (int64_t k = 0; k < depth; k += kTaps) {
        const int8x16x4_t weights_s8x16 = vld4q_s8(weights + k * kLanes);  // a register for each tap
        for (int tap = 0; tap < kTaps; ++tap) {
            const int16x8_t lower_s16x8 = vmovl_s8(vget_low_s8(weights_s8x16.val[tap]));
            const int16x8_t upper_s16x8 = vmovl_s8(vget_high_s8(weights_s8x16.val[tap]));
            for (int p = 0; p < pixels; ++p) {
                const int16_t x = patches[p * depth + k + tap];
                sum_s32x4[p][0] = vmlal_n_s16(sum_s32x4[p][0], vget_low_s16(lower_s16x8), x);
                sum_s32x4[p][1] = vmlal_n_s16(sum_s32x4[p][1], vget_high_s16(lower_s16x8), x);
                sum_s32x4[p][2] = vmlal_n_s16(sum_s32x4[p][2], vget_low_s16(upper_s16x8), x);
                sum_s32x4[p][3] = vmlal_n_s16(sum_s32x4[p][3], vget_high_s16(upper_s16x8), x);
            }
        }
    }
    for (int p = 0; p < pixels; ++p) {
        int32_t sums[kLanes];
        for (int part = 0; part < 4; ++part) vst1q_s32(sums + 4 * part, sum_s32x4[p][part]);
        image_epilogue(row, pixel + p, block, sums);
    }
}

void image_row(const ImageRow &row) {
    for (int64_t block = 0; block * kLanes < row.filters; ++block) {
        int64_t pixel = 0;
        for (; pixel + 2 <= row.pixels; pixel += 2) tile<2>(row, pixel, block);
        for (; pixel < row.pixels; ++pixel) tile<1>(row, pixel, block);
    }
}

}  // namespace

const ImageKernels image_neon{image_row};

}  // namespace hypersign
