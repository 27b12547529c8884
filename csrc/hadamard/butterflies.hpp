// The transform in plain loops. In an anonymous namespace: every file compiles its own with its own instructions.
#pragma once
#include <cstdint>
#include <type_traits>

namespace hypersign {
namespace {

// Integers are added as unsigned ones, which wrap round; signed ones must not.
template <typename T, bool floating = std::is_floating_point_v<T>>
struct Wrapping {
    using type = std::make_unsigned_t<T>;
};
template <typename T>
struct Wrapping<T, true> {
    using type = T;
};

template <typename T>
void butterflies(const T *x, T *y, int64_t n, T scale) {
    if (y != x)
        for (int64_t i = 0; i < n; ++i) y[i] = x[i];
    for (int64_t stride = 1; stride < n; stride *= 2)
        for (int64_t start = 0; start < n; start += 2 * stride)
            for (int64_t i = start; i < start + stride; ++i) {
                const T a = y[i], b = y[i + stride];
                y[i] = static_cast<T>(a + b);
                y[i + stride] = static_cast<T>(a - b);
            }
    if (scale != T(1))
        for (int64_t i = 0; i < n; ++i) y[i] = static_cast<T>(y[i] * scale);
}

}  // namespace
}  // namespace hypersign
