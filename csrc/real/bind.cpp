#include "bind.hpp"
#include "real/real.hpp"

namespace hypersign {
namespace {

template <typename T>
void bind_affine(nb::module_ &m) {
    using Row = Array<const float, 1>;
    define(m, "real_affine", [](AnyArray<const T> x, Row scale, Row shift, AnyArray<float> y) {
        const int64_t channels = length(scale, 0), size = static_cast<int64_t>(x.size());
        require_fit(channels >= 1 && length(shift, 0) == channels && y.size() == x.size() && size % channels == 0);
        return Call{[run = real_affine(x.data(), size, scale.data(), shift.data(), channels, y.data()), x, y](
                        int threads) { run(threads); }};
    });
}

}  // namespace

void bind_real(nb::module_ &m) {
    using Images = Array<const float, 4>;
    define(m, "real_conv2d",
           [](Images x, Images weight, Array<const float, 1> bias, Array<float, 4> y, Pair stride, Pair padding,
              Pair dilation, int64_t groups) {
               const RealTask task{x.data(),
                                   length(x, 0),
                                   length(x, 1),
                                   length(x, 2),
                                   length(x, 3),
                                   weight.data(),
                                   bias.data(),
                                   length(weight, 0),
                                   groups,
                                   {length(weight, 1), length(weight, 2)},
                                   {length(y, 1), length(y, 2)},
                                   {stride.first, stride.second},
                                   {padding.first, padding.second},
                                   {dilation.first, dilation.second},
                                   y.data()};
               require_fit(in_range(groups, 1) && in_range(length(weight, 3), 1) &&
                           task.channels == length(weight, 3) * groups && task.filters % groups == 0 &&
                           length(bias, 0) == task.filters && length(y, 0) == task.images &&
                           length(y, 3) == task.filters);
               require(window_fits({task.height, task.width}, {task.size[0], task.size[1]}, stride, padding, dilation,
                                   {task.out[0], task.out[1]}),
                       "a window that slides over the images and fits the output was expected");
               return Call{[run = real_conv2d(task), x, y](int threads) { run(threads); }};
           });
    bind_affine<int32_t>(m);
    bind_affine<float>(m);
}

}  // namespace hypersign
