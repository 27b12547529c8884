#include "real/real.hpp"

namespace hypersign {
namespace {

void real_tile(const RealTile &tile) {
    for (int64_t pixel = 0; pixel < tile.pixels; ++pixel) {
        double sum[kRealLanes];
        for (int64_t i = 0; i < kRealLanes; ++i) sum[i] = tile.bias[i];
        const double *x = tile.patches + pixel * tile.pitch;
        const double *weights = tile.weights;
        for (int64_t row = 0; row < tile.rows; ++row, x += tile.row_pitch)
            for (int64_t k = 0; k < tile.depth; ++k, weights += kRealLanes)
                for (int64_t i = 0; i < kRealLanes; ++i) sum[i] += weights[i] * x[k];
        for (int64_t i = 0; i < tile.count; ++i) tile.y[pixel * tile.y_pitch + i] = static_cast<float>(sum[i]);
    }
}

}  // namespace

const RealKernels real_portable{real_tile};

}  // namespace hypersign
