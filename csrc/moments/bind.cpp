#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "moments/moments.hpp"

namespace nb = nanobind;

namespace hypersign {

void bind_moments(nb::module_ &m) {
    using Weights = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
    using Units = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
    using Sums = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

    // absolute: (rows, d / 32); square: (rows); totals: (4), added to. Returns the number of zeros.
    m.def("weight_moments", [](Weights x, Units absolute, Sums square, Sums totals) {
        const int64_t rows = x.shape(0), d = x.shape(1);
        if (d % kMomentsUnit || int64_t(absolute.shape(0)) != rows || int64_t(absolute.shape(1)) * kMomentsUnit != d ||
            int64_t(square.shape(0)) != rows || totals.shape(0) != 4)
            throw nb::value_error("arrays that do not fit each other");
        int64_t zeros = 0;
        const MomentsTask task{x.data(), rows, d, absolute.data(), square.data(), totals.data(), &zeros};
        nb::gil_scoped_release release;
        current_kernels().moments->sums(task);
        return zeros;
    });
}

}  // namespace hypersign
