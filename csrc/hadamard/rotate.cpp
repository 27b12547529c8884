#include "hadamard/rotate.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace hypersign {
namespace {

template <class T>
void flip(T *y, const float *signs, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] *= static_cast<T>(signs[i]);
}

template <class T, class Transform>
void rotate_rows(const Rotation &rotation, const T *x, T *to, int64_t rows, const Transform &transform) {
    const int64_t n = rotation.size, window = rotation.window, half = n / 2;
    const auto factor = static_cast<T>(std::pow(static_cast<double>(window), -0.5));
    const auto root = static_cast<T>(std::sqrt(0.5));
    std::vector<T> memory(static_cast<size_t>(n));
    T *y = memory.data(), *last = y + n - half;
    for (int64_t row = 0; row < rows; ++row, x += rotation.dimension, to += rotation.outputs) {
        std::fill(std::copy_n(x, rotation.dimension, y), y + n, T(0));
        for (int64_t round = 0; round < rotation.rounds; ++round) {
            flip(y, rotation.signs + round * n, n);
            transform(y, window, factor);
            if (window == n) continue;
            flip(y, rotation.signs + (rotation.rounds + round) * n, n);
            transform(y + n - window, window, factor);
            for (int64_t i = 0; i < half; ++i) {
                const T sum = (y[i] + last[i]) * root, difference = (y[i] - last[i]) * root;
                y[i] = sum;
                last[i] = difference;
            }
        }
        std::copy_n(y, rotation.outputs, to);
    }
}

}  // namespace

void rotate(const Rotation &rotation, const float *x, float *to, int64_t rows) {
    const auto kernel = current_kernels().hadamard->float32;
    rotate_rows(rotation, x, to, rows, [=](float *y, int64_t n, float factor) { kernel(y, y, 1, n, factor); });
}

void rotate(const Rotation &rotation, const double *x, double *to, int64_t rows) {
    const auto kernel = current_kernels().hadamard->float64;
    rotate_rows(rotation, x, to, rows, [=](double *y, int64_t n, double factor) { kernel(y, y, 1, n, factor); });
}

}  // namespace hypersign
