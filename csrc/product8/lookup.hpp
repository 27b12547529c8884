// The epilogue of lookups: a copy for each file, compiled for its instruction set.
#pragma once
#include <cstdint>

namespace hypersign {
namespace {

inline void product8_sums(const int32_t *codes, int64_t count, int32_t x_sum, int32_t *y) {
    for (int64_t i = 0; i < count; ++i) y[i] = x_sum - 2 * codes[i];
}

inline void product8_scaled(const int32_t *codes, int64_t count, int32_t x_sum, const float *scale, float x_scale,
                            float *y) {
    for (int64_t i = 0; i < count; ++i) y[i] = static_cast<float>(x_sum - 2 * codes[i]) * scale[i] * x_scale;
}

}  // namespace
}  // namespace hypersign
