#include "bind.hpp"
#include "hadamard/hadamard.hpp"
#include "hadamard/rotate.hpp"
#include "parallel.hpp"

namespace hypersign {
namespace {

// Threads share the rows; each row stays with one. y is x, or does not overlap it.
template <typename T, typename Kernel>
void transform(const Array<const T, 2> &x, const Array<T, 2> &y, int threads, Kernel kernel) {
    const T *from = x.data();
    T *to = y.data();
    const int64_t rows = length(x, 0), n = length(x, 1);
    threads = checked_threads(threads);
    require_fit(length(y, 0) == rows && length(y, 1) == n &&
                (from == to || from + rows * n <= to || to + rows * n <= from));
    require(n >= 1 && (n & (n - 1)) == 0, "rows of a power of two were expected");
    GilReleased released;
    parallel_for(rows, threads, [&](int64_t first, int64_t last) {
        kernel(from + first * n, to + first * n, last - first, n);
    });
}

template <typename T>
void bind_floating(nb::module_ &m, const char *name, void (*HadamardKernels::*kernel)(const T *, T *, int64_t, int64_t, T)) {
    define(m, name, [kernel](Array<const T, 2> x, Array<T, 2> y, T scale, int threads) {
        const auto run = current_kernels().hadamard->*kernel;
        transform<T>(x, y, threads, [=](const T *from, T *to, int64_t rows, int64_t n) { run(from, to, rows, n, scale); });
    });
}

template <typename T>
void bind_integer(nb::module_ &m, const char *name, void (*HadamardKernels::*kernel)(const T *, T *, int64_t, int64_t)) {
    define(m, name, [kernel](Array<const T, 2> x, Array<T, 2> y, int threads) {
        transform<T>(x, y, threads, current_kernels().hadamard->*kernel);
    });
}

template <typename T>
void bind_rotate(nb::module_ &m, const char *name) {
    define(m, name,
           [](Array<const T, 2> x, Array<const float, 2> signs, int64_t window, Array<T, 2> y, int threads) {
               const int64_t rows = length(x, 0), n = length(signs, 1), parts = window == n ? 1 : 2;
               const Rotation rotation{length(x, 1), length(y, 1), n, window, length(signs, 0) / parts, signs.data()};
               require(window >= 1 && (window & (window - 1)) == 0 && window <= n && n < 2 * window,
                       "a power of two was expected");
               require_fit(length(y, 0) == rows && rotation.dimension <= n && rotation.outputs <= n &&
                           length(signs, 0) % parts == 0);
               const T *from = x.data();
               T *to = y.data();
               threads = checked_threads(threads);
               GilReleased released;
               parallel_for(rows, threads, [&](int64_t first, int64_t last) {
                   rotate(rotation, from + first * rotation.dimension, to + first * rotation.outputs, last - first);
               });
           });
}

}  // namespace

void bind_hadamard(nb::module_ &m) {
    bind_rotate<float>(m, "rotate_float32");
    bind_rotate<double>(m, "rotate_float64");
    bind_floating<float>(m, "hadamard_float32", &HadamardKernels::float32);
    bind_floating<double>(m, "hadamard_float64", &HadamardKernels::float64);
    bind_integer<int32_t>(m, "hadamard_int32", &HadamardKernels::int32);
    bind_integer<int16_t>(m, "hadamard_int16", &HadamardKernels::int16);
}

}  // namespace hypersign
