// Puts four adjacent inputs of each row side by side, and adds them up. Plain C++, compiled for each instruction set.
#pragma once
#include <algorithm>

#include "product8/product8.hpp"

namespace hypersign {
namespace {

template <int quad = kProduct8Quad>
void order(const Product8Order &order) {
    const int64_t rows = order.rows;
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t g = 0; g < order.groups; ++g) {
            const int64_t count = std::min(order.group, order.depth - g * order.group);
            const int8_t *from = order.x + row * order.depth + g * order.group;
            int8_t *to = order.to + (g * order.padded * rows + row * quad);
            int64_t k = rows == 1 ? count / quad * quad : 0;
            if (k > 0) std::memcpy(to, from, static_cast<size_t>(k));
            for (; k + quad <= count; k += quad) std::memcpy(to + k * rows, from + k, quad);
            for (; k < order.padded; k += quad) {
                std::memset(to + k * rows, 0, quad);
                if (k < count) std::memcpy(to + k * rows, from + k, static_cast<size_t>(count - k));
            }
            int32_t sum = 0;
            for (int64_t i = 0; i < count; ++i) sum += from[i];
            order.x_sums[row * order.groups + g] = sum;
        }
}

}  // namespace
}  // namespace hypersign
