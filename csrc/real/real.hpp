// Convolutions of real numbers, for the layers of a packed network that are not integer.
//
//     sum = bias, then += x w for every tap (kernel row, kernel column, channel), in this order, in float64
//
// The product of two float32 numbers is exact in float64, so that a fused multiply-add and a product followed by a
// sum give the same; with the order fixed, every instruction set gives the same bits, whatever the batch and the
// threads. Vectors run over filters: no sum is ever split.
#pragma once
#include <cstdint>
#include <functional>

#include "instruction_sets.hpp"

namespace hypersign {

constexpr int64_t kRealLanes = 16;  // filters side by side

// Some patches (the numbers under a filter, at each pixel) with 16 filters. A patch is one row of numbers, or a few that
// lie apart, as the rows of an image do.
struct RealTile {
    const double *patches;  // (pixels, rows, depth), pixels `pitch` apart and rows `row_pitch`
    int64_t pixels, rows, depth, pitch, row_pitch;
    const double *weights;  // (rows, depth, 16)
    const double *bias;     // (16)
    float *y;               // (pixels, count), rows `y_pitch` apart
    int64_t count, y_pitch;
};

struct RealKernels {
    void (*tile)(const RealTile &tile);
};


// A convolution; pairs are (vertical, horizontal).
struct RealTask {
    const float *x;  // (images, height, width, channels)
    int64_t images, height, width, channels;
    const float *weight;  // (filters, kernel height, kernel width, channels / groups)
    const float *bias;    // (filters)
    int64_t filters, groups, size[2], out[2];
    int64_t stride[2], padding[2], dilation[2];
    float *y;  // (images, out, filters)
};

// Made ready: weight and bias are copied.
std::function<void(int)> real_conv2d(const RealTask &task);

// Made ready: y = x scale + shift, of numbers (size / channels, channels); product and sum are each rounded.
template <typename T>
std::function<void(int)> real_affine(const T *x, int64_t size, const float *scale, const float *shift,
                                     int64_t channels, float *y);

}  // namespace hypersign
