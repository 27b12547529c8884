// The kernel, in the compiler's own vectors: `Vector` holds some doubles, `pixels` pixels by 16 filters are summed in
// registers. Vector or `Local` must be local to the file that includes this, so that its code is never shared with
// that of another instruction set.
#pragma once
#include <cstring>

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
    for (int64_t row = 0; row < tile.rows; ++row, x += tile.row_pitch)
        for (int64_t k = 0; k < tile.depth; ++k, weights += kRealLanes) {
            Vector weight[kVectors];
            for (int v = 0; v < kVectors; ++v) weight[v] = *reinterpret_cast<const Unaligned *>(weights + v * kLanes);
            for (int p = 0; p < pixels; ++p)
                for (int v = 0; v < kVectors; ++v) sum[p][v] += weight[v] * x[p * tile.pitch + k];
        }
    typedef float Floats __attribute__((vector_size(sizeof(Vector) / 2)));
    for (int p = 0; p < pixels; ++p) {
        float *y = tile.y + (pixel + p) * tile.y_pitch, rest[kRealLanes];
        const bool whole = tile.count == kRealLanes;
        for (int v = 0; v < kVectors; ++v) {
            const Floats rounded = __builtin_convertvector(sum[p][v], Floats);
            std::memcpy((whole ? y : rest) + v * kLanes, &rounded, sizeof rounded);
        }
        if (!whole) std::memcpy(y, rest, static_cast<size_t>(tile.count) * sizeof(float));
    }
}

template <class Local, class Vector, int pixels>
void real_tile(const RealTile &tile) {
    int64_t pixel = 0;
    for (; pixel + pixels <= tile.pixels; pixel += pixels) real_pixels<Local, Vector, pixels>(tile, pixel);
    for (; pixel < tile.pixels; ++pixel) real_pixels<Local, Vector, 1>(tile, pixel);
}

}  // namespace hypersign
