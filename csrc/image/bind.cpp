#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <optional>
#include <utility>

#include "call.hpp"
#include "image/image.hpp"

namespace nb = nanobind;

namespace hypersign {
namespace {

template <class T, int dimensions>
using Array = nb::ndarray<T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
using Pair = std::pair<int64_t, int64_t>;

void check(bool fits) {
    if (!fits) throw nb::value_error("arrays that do not fit each other");
}

}  // namespace

void bind_image(nb::module_ &m) {
    m.def("channels_last", [](Array<const uint8_t, 4> x, Array<uint8_t, 4> y) {
        const auto of = [](const auto &array, size_t axis) { return static_cast<int64_t>(array.shape(axis)); };
        check(of(y, 0) == of(x, 0) && of(y, 1) == of(x, 2) && of(y, 2) == of(x, 3) && of(y, 3) == of(x, 1));
        channels_last(x.data(), of(x, 0), of(x, 1), of(x, 2) * of(x, 3), y.data());
    });
    // x (N, H, W, C); weights (blocks, fours, 16, 4); taps (kernel height, kernel width, 16 * blocks).
    // Sums: (N, H', W', filters), and no limits. Levels: planes (1 or 2, N, H', W', words), limits (1 or 2, 16 blocks).
    m.def(
        "image_conv2d",
        [](Array<const uint8_t, 4> x, Array<const int8_t, 4> weights, Array<const int32_t, 3> taps, Pair stride,
           Pair padding, Pair dilation, std::optional<Array<int32_t, 4>> sums,
           std::optional<Array<const int32_t, 2>> limits, std::optional<Array<const uint64_t, 1>> flip,
           std::optional<Array<uint64_t, 5>> planes, int64_t filters) {
            const auto of = [](const auto &array, size_t axis) { return static_cast<int64_t>(array.shape(axis)); };
            ImageTask task{};
            task.x = x.data();
            task.images = of(x, 0), task.height = of(x, 1), task.width = of(x, 2), task.channels = of(x, 3);
            task.weights = weights.data();
            task.taps = taps.data();
            task.filters = filters;
            task.size[0] = of(taps, 0), task.size[1] = of(taps, 1);
            task.stride[0] = stride.first, task.stride[1] = stride.second;
            task.padding[0] = padding.first, task.padding[1] = padding.second;
            task.dilation[0] = dilation.first, task.dilation[1] = dilation.second;
            const int64_t blocks = (filters + kImageLanes - 1) / kImageLanes;
            check(of(weights, 0) == blocks && of(weights, 2) == kImageLanes && of(weights, 3) == kImageTaps &&
                  of(weights, 1) == (task.size[0] * task.size[1] * task.channels + kImageTaps - 1) / kImageTaps &&
                  of(taps, 2) == kImageLanes * blocks);
            if (sums) {
                check(of(*sums, 0) == task.images && of(*sums, 3) == filters);
                task.out[0] = of(*sums, 1), task.out[1] = of(*sums, 2);
                task.sums = sums->data();
            } else {
                check(planes && limits && flip && of(*planes, 1) == task.images && of(*planes, 0) <= 2 &&
                      of(*planes, 0) == of(*limits, 0) && of(*limits, 1) == kImageLanes * blocks &&
                      of(*planes, 4) == (filters + 63) / 64 && of(*flip, 0) == of(*planes, 4));
                task.out[0] = of(*planes, 2), task.out[1] = of(*planes, 3);
                task.low = limits->data();
                task.flip = flip->data();
                task.sign = planes->data();
                if (of(*planes, 0) == 2) {
                    task.high = limits->data() + of(*limits, 1);
                    task.nonzero = planes->data() + planes->size() / 2;
                }
            }
            for (int axis = 0; axis < 2; ++axis) {  // no window reaches past the padded image
                const int64_t length = of(x, static_cast<size_t>(axis) + 1);
                check(task.stride[axis] >= 1 && task.dilation[axis] >= 1 && task.padding[axis] >= 0 &&
                      (task.out[axis] - 1) * task.stride[axis] + task.dilation[axis] * (task.size[axis] - 1) <
                          length + 2 * task.padding[axis]);
            }
            return Call{[run = image_conv2d(task), x, weights, taps, sums, limits, flip, planes](int threads) {
                run(threads);
            }};
        },
        nb::arg("x"), nb::arg("weights"), nb::arg("taps"), nb::arg("stride"), nb::arg("padding"),
        nb::arg("dilation"), nb::arg("sums").none(), nb::arg("limits").none(), nb::arg("flip").none(),
        nb::arg("planes").none(), nb::arg("filters"));
}

}  // namespace hypersign
