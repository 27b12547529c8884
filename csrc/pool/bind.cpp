#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>

#include <utility>

#include "call.hpp"
#include "pool/pool.hpp"

namespace nb = nanobind;

namespace hypersign {

void bind_pool(nb::module_ &m) {
    using Planes = nb::ndarray<const uint64_t, nb::ndim<5>, nb::c_contig, nb::device::cpu>;
    using Pooled = nb::ndarray<uint64_t, nb::ndim<5>, nb::c_contig, nb::device::cpu>;
    using Row = nb::ndarray<const uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
    using Pair = std::pair<int64_t, int64_t>;
    // One plane: binary; two: sign, non-zero.
    m.def("max_pool2d", [](Planes x, Pooled y, Row flip, Pair size, Pair stride, Pair padding) {
        const auto of = [](const auto &array, size_t axis) { return static_cast<int64_t>(array.shape(axis)); };
        const PoolTask task{of(x, 1), of(x, 2), of(x, 3), of(x, 4), of(y, 2), of(y, 3), {size.first, size.second},
                            {stride.first, stride.second}, {padding.first, padding.second}, flip.data()};
        if (of(x, 0) != of(y, 0) || of(x, 0) < 1 || of(x, 0) > 2 || of(x, 1) != of(y, 1) || of(x, 4) != of(y, 4) ||
            of(flip, 0) != of(x, 4))
            throw nb::value_error("arrays that do not fit each other");
        return Call{[task, x, y, flip](int) {
            if (x.shape(0) == 1)
                max_pool_binary(task, x.data(), y.data());
            else
                max_pool_ternary(task, x.data(), x.data() + x.size() / 2, y.data(), y.data() + y.size() / 2);
        }};
    });
}

}  // namespace hypersign
