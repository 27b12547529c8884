#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "hadamard/hadamard.hpp"
#include "parallel.hpp"

namespace nb = nanobind;

namespace hypersign {
namespace {

template <typename T>
using From = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using To = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Rows are shared out among the threads; a row stays with one.
template <typename T, typename Kernel>
void transform(const From<T> &x, const To<T> &y, int threads, Kernel kernel) {
    const T *from = x.data();
    T *to = y.data();
    const int64_t rows = x.shape(0), n = x.shape(1);
    nb::gil_scoped_release release;
    parallel_for(rows, threads, [&](int64_t first, int64_t last) {
        kernel(from + first * n, to + first * n, last - first, n);
    });
}

template <typename T>
void bind_floating(nb::module_ &m, const char *name, void (*HadamardKernels::*kernel)(const T *, T *, int64_t, int64_t, T)) {
    m.def(name, [kernel](From<T> x, To<T> y, T scale, int threads) {
        const auto run = current_kernels().hadamard->*kernel;
        transform<T>(x, y, threads, [=](const T *from, T *to, int64_t rows, int64_t n) { run(from, to, rows, n, scale); });
    });
}

template <typename T>
void bind_integer(nb::module_ &m, const char *name, void (*HadamardKernels::*kernel)(const T *, T *, int64_t, int64_t)) {
    m.def(name, [kernel](From<T> x, To<T> y, int threads) {
        transform<T>(x, y, threads, current_kernels().hadamard->*kernel);
    });
}

}  // namespace

void bind_hadamard(nb::module_ &m) {
    bind_floating<float>(m, "hadamard_float32", &HadamardKernels::float32);
    bind_floating<double>(m, "hadamard_float64", &HadamardKernels::float64);
    bind_integer<int32_t>(m, "hadamard_int32", &HadamardKernels::int32);
    bind_integer<int16_t>(m, "hadamard_int16", &HadamardKernels::int16);
}

}  // namespace hypersign
