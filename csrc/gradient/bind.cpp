#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>

#include "gradient/gradient.hpp"

namespace nb = nanobind;

namespace hypersign {
namespace {

template <class T, int dimensions>
using Array = nb::ndarray<T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
using Pair = std::pair<int64_t, int64_t>;

GradientShape shape_of(int64_t images, Pair size, int64_t channels, Pair outputs, int64_t filters, Pair kernel,
                       Pair stride, Pair padding, Pair dilation, int64_t planes) {
    if (kernel.first < 1 || kernel.second < 1 || stride.first < 1 || stride.second < 1 || dilation.first < 1 ||
        dilation.second < 1 || padding.first < 0 || padding.second < 0 || planes < 1 || planes > 2 || channels < 1)
        throw nb::value_error("options out of range");
    return {images,
            size.first,
            size.second,
            channels,
            outputs.first,
            outputs.second,
            filters,
            {kernel.first, kernel.second},
            {stride.first, stride.second},
            {padding.first, padding.second},
            {dilation.first, dilation.second},
            planes};
}

void check(bool fits) {
    if (!fits) throw nb::value_error("arrays that do not fit each other");
}

}  // namespace

void bind_gradient(nb::module_ &m) {
    m.def("round_gradients", [](Array<const float, 3> x, uint64_t seed, Array<int8_t, 3> by_image,
                                Array<float, 1> image_scales, Array<int8_t, 3> by_filter, Array<float, 1> filter_scales,
                                int threads) {
        const size_t images = x.shape(0), pixels = x.shape(1), filters = x.shape(2);
        for (size_t i = 0; i < 3; ++i) check(by_image.shape(i) == x.shape(i) && by_filter.shape(i) == x.shape(i));
        check(image_scales.shape(0) == images && filter_scales.shape(0) == filters);
        nb::gil_scoped_release release;
        round_gradients(x.data(), static_cast<int64_t>(images), static_cast<int64_t>(pixels),
                        static_cast<int64_t>(filters), seed, by_image.data(), image_scales.data(), by_filter.data(),
                        filter_scales.data(), threads);
    });
    m.def("input_gradient", [](Array<const int8_t, 4> q, Array<const float, 1> scales, Array<const uint64_t, 3> words,
                               Array<float, 4> out, Pair kernel, Pair stride, Pair padding, Pair dilation,
                               int threads) {
        const size_t d = static_cast<size_t>(kernel.first * kernel.second) * out.shape(3);
        check(q.shape(0) == out.shape(0) && scales.shape(0) == q.shape(0) && words.shape(1) == q.shape(3) &&
              words.shape(2) == (d + 63) / 64);
        const GradientShape shape =
            shape_of(q.shape(0), {out.shape(1), out.shape(2)}, out.shape(3), {q.shape(1), q.shape(2)}, q.shape(3),
                     kernel, stride, padding, dilation, words.shape(0));
        nb::gil_scoped_release release;
        input_gradient(shape, q.data(), scales.data(), words.data(), out.data(), threads);
    });
    m.def("weight_gradient", [](Array<const int8_t, 4> q, Array<const float, 1> scales, Array<const uint64_t, 5> x,
                                Array<float, 4> out, Pair stride, Pair padding, Pair dilation, int64_t pad_value,
                                int threads) {
        check(q.shape(0) == x.shape(1) && scales.shape(0) == q.shape(3) && out.shape(0) == q.shape(3) &&
              x.shape(4) == (out.shape(3) + 63) / 64);
        const GradientShape shape =
            shape_of(q.shape(0), {x.shape(2), x.shape(3)}, out.shape(3), {q.shape(1), q.shape(2)}, q.shape(3),
                     {out.shape(1), out.shape(2)}, stride, padding, dilation, x.shape(0));
        nb::gil_scoped_release release;
        weight_gradient(shape, q.data(), scales.data(), x.data(), pad_value, out.data(), threads);
    });
}

}  // namespace hypersign
