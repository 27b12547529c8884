#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>

#include <utility>

#include "call.hpp"
#include "real/real.hpp"

namespace nb = nanobind;

namespace hypersign {
namespace {

template <typename T>
void bind_affine(nb::module_ &m) {
    using Row = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
    m.def("real_affine", [](nb::ndarray<const T, nb::c_contig, nb::device::cpu> x, Row scale, Row shift,
                            nb::ndarray<float, nb::c_contig, nb::device::cpu> y) {
        const auto channels = static_cast<int64_t>(scale.size()), size = static_cast<int64_t>(x.size());
        if (channels < 1 || shift.size() != scale.size() || y.size() != x.size() || size % channels != 0)
            throw nb::value_error("arrays that do not fit each other");
        return Call{[run = real_affine(x.data(), size, scale.data(), shift.data(), channels, y.data()), x, y](
                        int threads) { run(threads); }};
    });
}

}  // namespace

void bind_real(nb::module_ &m) {
    using Images = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
    using Sums = nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
    using Row = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
    using Pair = std::pair<int64_t, int64_t>;
    m.def("real_conv2d", [](Images x, Images weight, Row bias, Sums y, Pair stride, Pair padding, Pair dilation,
                            int64_t groups, int threads) {
        const auto of = [](const auto &array, size_t axis) { return static_cast<int64_t>(array.shape(axis)); };
        const RealTask task{x.data(), of(x, 0), of(x, 1), of(x, 2), of(x, 3), weight.data(), bias.data(),
                            of(weight, 0), groups, {of(weight, 1), of(weight, 2)}, {of(y, 1), of(y, 2)},
                            {stride.first, stride.second}, {padding.first, padding.second},
                            {dilation.first, dilation.second}, y.data(), threads};
        if (groups < 1 || task.channels != of(weight, 3) * groups || task.filters % groups != 0 ||
            of(bias, 0) != task.filters || of(y, 0) != task.images || of(y, 3) != task.filters)
            throw nb::value_error("arrays that do not fit each other");
        nb::gil_scoped_release release;
        real_conv2d(task);
    });
    bind_affine<int32_t>(m);
    bind_affine<float>(m);
}

}  // namespace hypersign
