// Passes over real numbers, for what stands between the products of a packed network and has no integer form: batch
// norms before real shortcuts, the shortcuts themselves, learned slopes, offsets, and the signs of all these.
//
// Each function is one of the graph's operations on rows of numbers, and rounds as NumPy does in float32: every product
// and every sum on its own. A program (program.hpp) runs several of them on a few pixels, while these are in the cache.
//
// Bottleneck: memory. One operation after the other over a whole batch reads and writes every number each time, from
// the second cache or beyond: about 64 bytes in 10 cycles. In a program, numbers come from the first cache: two loads
// and a store of a register a cycle, so an operation on 16 numbers takes 1 to 2 cycles with AVX-512 (32-byte registers:
// 2 to 4), as much as its arithmetic. The compiler vectorises these loops; only the bits of levels need instructions of
// their own.
#pragma once
#include <cstdint>

#include "instruction_sets.hpp"

namespace hypersign {

// What follows the sums of a residual block: batch norm and shortcut, perhaps RPReLU, perhaps binary levels,
//
//     s = (x scale + shift) + other
//     t = s scale1 + shift1,  s = (min(t, 0) scale3 + shift3) + (max(t, 0) scale2 + shift2)     with RPReLU
//
// each product and sum rounded. Channels are a multiple of 16.
struct ResidualTask {
    const int32_t *x;
    int64_t x_stride;  // from a pixel to the next
    const float *scale, *shift, *other;
    const float *rprelu[6];  // rows of scale1, shift1, scale2, shift2, scale3, shift3; null without RPReLU
    const float *low;        // with levels: as ElementwiseKernels::levels has them; null without
    const uint64_t *flip;
    float *y;
    uint64_t *sign;
    int64_t pixels, channels;
};

// y may be x, or the first or second term. Parameters have a row of `period` numbers that repeats.
struct ElementwiseKernels {
    // y = x scale + shift, product and sum each rounded
    void (*affine_float32)(const float *x, const float *scale, const float *shift, int64_t period, float *y, int64_t n);
    void (*affine_int32)(const int32_t *x, const float *scale, const float *shift, int64_t period, float *y, int64_t n);
    void (*affine_uint8)(const uint8_t *x, const float *scale, const float *shift, int64_t period, float *y, int64_t n);
    // y = (x scale + shift) + other
    void (*affine_add_float32)(const float *x, const float *scale, const float *shift, int64_t period,
                               const float *other, float *y, int64_t n);
    void (*affine_add_int32)(const int32_t *x, const float *scale, const float *shift, int64_t period,
                             const float *other, float *y, int64_t n);
    void (*add)(const float *a, const float *b, float *y, int64_t n);
    // min(max(x, low), high); NaN stays
    void (*clip)(const float *x, float low, float high, float *y, int64_t n);
    // y(pixel, channel) = x(pixel) scale(channel)
    void (*outer)(const float *x, const float *scale, int64_t channels, float *y, int64_t pixels);
    // Packs pixels x channels numbers, as pack/pack.hpp does, with rows of limits of 16 ceil(channels / 16) numbers.
    // Returns whether a NaN was met.
    bool (*levels)(const float *x, const float *low, const float *high, const uint64_t *flip, uint64_t *sign,
                   uint64_t *nonzero, int64_t pixels, int64_t channels);
    // y = the sum of `count` rows of n numbers, in order, divided by a number
    void (*mean)(const float *const *rows, int64_t count, float divisor, float *y, int64_t n);
    // y = the largest of them; NaN wins
    void (*max)(const float *const *rows, int64_t count, float *y, int64_t n);
    // The end of a residual block in one loop. Null where it is no faster than operation after operation.
    bool (*residual)(const ResidualTask &task) = nullptr;
};

}  // namespace hypersign
