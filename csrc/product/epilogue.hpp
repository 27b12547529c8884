// The epilogue in plain C++: counts become sums or levels. For kernels that have no instructions of their own for it.
#pragma once
#include "product/product.hpp"

namespace hypersign {
namespace {  // a copy for each file, compiled for its instruction set

// `lanes` counts, a multiple of 16, of pixel p and the block's filters from `first` on.
inline void epilogue(const ProductTile &tile, int p, const int32_t *v, int lanes, int first = 0) {
    const int32_t *thresholds = tile.thresholds[p] + tile.first_filter + first;
    if (tile.sums) {
        const int shift = tile.ternary_x ? 0 : 1;
        int32_t *out = tile.sums + p * tile.sums_stride + first;
        const int count = lanes < tile.filters - first ? lanes : tile.filters - first;
        for (int i = 0; i < count; ++i) out[i] = thresholds[i] - v[i] * (1 << shift);
        return;
    }
    const bool ternary = tile.levels_plane != 0;
    const int32_t *high = thresholds + tile.high_stride;
    for (int start = 0; start < lanes; start += 16) {
        uint32_t minus = 0, plus = 0;
        for (int i = 0; i < 16; ++i) minus |= static_cast<uint32_t>(v[start + i] > thresholds[start + i]) << i;
        if (ternary)
            for (int i = 0; i < 16; ++i) plus |= static_cast<uint32_t>(v[start + i] <= high[start + i]) << i;
        const int piece = (first + start) / 16;
        uint16_t *out = tile.levels + p * tile.levels_stride + piece;
        minus ^= tile.flip[piece];
        if (ternary) {
            const uint32_t nonzero = (minus ^ tile.flip[piece]) | plus;
            minus &= nonzero;
            out[tile.levels_plane] = static_cast<uint16_t>(nonzero);
        }
        out[0] = static_cast<uint16_t>(minus);
    }
}

}  // namespace
}  // namespace hypersign
