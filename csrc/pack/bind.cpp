#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <optional>

#include "pack/pack.hpp"

namespace nb = nanobind;

namespace hypersign {
namespace {

template <class T, int dimensions>
using Array = nb::ndarray<T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;

// Makes pack of one type of numbers a function; binary where `high` is None, ternary where it is limits.
template <class T, class Limit>
void bind(nb::module_ &m, const char *name, Pack<T, Limit> PackKernels::*kernel) {
    m.def(
        name,
        [kernel](Array<const T, 2> x, Array<const Limit, 1> low, std::optional<Array<const Limit, 1>> high,
                 Array<const uint64_t, 1> flip, Array<uint64_t, 3> planes) {
            const size_t rows = x.shape(0), n = x.shape(1), words = (n + 63) / 64;
            if (low.shape(0) != n || (high && high->shape(0) != n) || flip.shape(0) != words ||
                planes.shape(0) != (high ? 2 : 1) || planes.shape(1) != rows || planes.shape(2) != words)
                throw nb::value_error("arrays that do not fit each other");
            nb::gil_scoped_release release;
            return (current_kernels().pack->*kernel)(x.data(), low.data(), high ? high->data() : nullptr, flip.data(),
                                                     planes.data(), high ? planes.data() + rows * words : nullptr,
                                                     static_cast<int64_t>(rows), static_cast<int64_t>(n));
        },
        nb::arg("x"), nb::arg("low"), nb::arg("high").none(), nb::arg("flip"), nb::arg("planes"));
}

}  // namespace

void bind_pack(nb::module_ &m) {
    bind(m, "pack_float32", &PackKernels::float32);
    bind(m, "pack_float64", &PackKernels::float64);
    bind(m, "pack_int8", &PackKernels::int8);
    bind(m, "pack_uint8", &PackKernels::uint8);
    bind(m, "pack_int32", &PackKernels::int32);
}

}  // namespace hypersign
