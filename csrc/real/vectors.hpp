// The kernel, in the compiler's own vectors: `Vector` holds some doubles, `pixels` pixels by 16 filters are summed in
// registers. Vector or `Local` must be local to the file that includes this, so that its code is never shared with
// that of another instruction set.
#pragma once
#include "real/real.hpp"

namespace hypersign {

template <class Local, class Vector, int pixels>
void real_pixels(const RealTile &tile, int64_t pixel) {
    // The same vector, wherever it lies in memory.
    typedef Vector Unaligned __attribute__((aligned(8), may_alias));
    constexpr int kLanes = sizeof(Vector) / sizeof(double), kVectors = kRealLanes / kLanes;
    Vector sum[pixels][kVectors];
    for (int p = 0; p < pixels; ++p)
        for (int v = 0; v < kVectors; ++v) sum[p][v] = *reinterpret_cast<const Unaligned *>(tile.bias + v * kLanes);
    const double *x = tile.patches + pixel * tile.pitch;
    const double *weights = tile.weights;
    for (int64_t k = 0; k < tile.depth; ++k, weights += kRealLanes) {
        Vector weight[kVectors];
        for (int v = 0; v < kVectors; ++v) weight[v] = *reinterpret_cast<const Unaligned *>(weights + v * kLanes);
        for (int p = 0; p < pixels; ++p)
            for (int v = 0; v < kVectors; ++v) sum[p][v] += weight[v] * x[p * tile.pitch + k];
    }
    for (int p = 0; p < pixels; ++p) {
        double sums[kRealLanes];
        for (int v = 0; v < kVectors; ++v) *reinterpret_cast<Unaligned *>(sums + v * kLanes) = sum[p][v];
        float *y = tile.y + (pixel + p) * tile.y_pitch;
        if (tile.count == kRealLanes)
            for (int64_t i = 0; i < kRealLanes; ++i) y[i] = static_cast<float>(sums[i]);
        else
            for (int64_t i = 0; i < tile.count; ++i) y[i] = static_cast<float>(sums[i]);
    }
}

template <class Local, class Vector, int pixels>
void real_tile(const RealTile &tile) {
    int64_t pixel = 0;
    for (; pixel + pixels <= tile.pixels; pixel += pixels) real_pixels<Local, Vector, pixels>(tile, pixel);
    for (; pixel < tile.pixels; ++pixel) real_pixels<Local, Vector, 1>(tile, pixel);
}

}  // namespace hypersign
