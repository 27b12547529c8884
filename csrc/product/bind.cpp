#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <optional>
#include <utility>

#include "call.hpp"
#include "product/filters.hpp"

namespace nb = nanobind;

namespace hypersign {

void bind_product(nb::module_ &m) {
    using Words = nb::ndarray<const uint64_t, nb::c_contig, nb::device::cpu>;
    using Limits = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
    using Flips = nb::ndarray<const bool, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
    using Out = nb::ndarray<nb::c_contig, nb::device::cpu>;
    using Pair = std::pair<int64_t, int64_t>;

    nb::class_<ProductFilters>(m, "Filters")
        .def("__init__",
             [](ProductFilters *self, Words words, int64_t rows, int64_t columns, int64_t depth, int64_t groups) {
                 const bool ternary = words.ndim() == 3;
                 nb::gil_scoped_release release;
                 new (self) ProductFilters(*current_kernels().product, words.data(), words.shape(ternary), rows,
                                           columns, depth, groups, ternary);
             })
        .def(
            "convolve",
            [](const ProductFilters &self, Words x, Pair stride, Pair padding, Pair dilation, int pad_value,
               std::optional<Limits> low, std::optional<Limits> high, std::optional<Flips> flip, Out out) {
                const bool ternary = x.ndim() == 5;
                const PackedImages images{x.data(), static_cast<int64_t>(x.shape(ternary)),
                                          static_cast<int64_t>(x.shape(ternary + 1)),
                                          static_cast<int64_t>(x.shape(ternary + 2)), ternary};
                const Window window{{stride.first, stride.second},
                                    {padding.first, padding.second},
                                    {dilation.first, dilation.second},
                                    pad_value};
                const ProductThresholds thresholds{low ? low->data() : nullptr, high ? high->data() : nullptr,
                                                   flip ? flip->data() : nullptr};
                return Call{[run = self.convolve(images, window, thresholds, out.data()), x, low, high, flip, out](
                                int threads) { run(threads); }};
            },
            nb::keep_alive<0, 1>(),  // the call's filters
            nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg().none(),
            nb::arg().none(), nb::arg());
    m.def("product_limit", [](int64_t rounds) {
        nb::gil_scoped_release release;
        return current_kernels().product->peak(rounds);
    });
}

}  // namespace hypersign
