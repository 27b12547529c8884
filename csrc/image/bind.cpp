#include "bind.hpp"
#include "image/image.hpp"
#include "integers.hpp"

namespace hypersign {

void bind_image(nb::module_ &m) {
    define(m, "channels_last", [](Array<const uint8_t, 4> x, Array<uint8_t, 4> y) {
        require_fit(length(y, 0) == length(x, 0) && length(y, 1) == length(x, 2) && length(y, 2) == length(x, 3) &&
                    length(y, 3) == length(x, 1));
        channels_last(x.data(), length(x, 0), length(x, 1), length(x, 2) * length(x, 3), y.data());
    });
    // x (N, H, W, C); weights (blocks, fours, 16, 4); taps (kernel height, kernel width, 16 * blocks). Sums: (N, H',
    // W', filters), and no limits. Levels: planes (1 or 2, N, H', W', words), limits (1 or 2, 16 blocks).
    define(m, "image_conv2d",
           [](Array<const uint8_t, 4> x, Array<const int8_t, 4> weights, Array<const int32_t, 3> taps, Pair stride,
              Pair padding, Pair dilation, std::optional<Array<int32_t, 4>> sums,
              std::optional<Array<const int32_t, 2>> limits, std::optional<Array<const uint64_t, 1>> flip,
              std::optional<Array<uint64_t, 5>> planes, int64_t filters) {
               require(in_range(filters, 0), "the number of filters was expected");
               ImageTask task{};
               task.x = x.data();
               task.images = length(x, 0), task.height = length(x, 1);
               task.width = length(x, 2), task.channels = length(x, 3);
               task.weights = weights.data();
               task.taps = taps.data();
               task.filters = filters;
               task.size[0] = length(taps, 0), task.size[1] = length(taps, 1);
               task.stride[0] = stride.first, task.stride[1] = stride.second;
               task.padding[0] = padding.first, task.padding[1] = padding.second;
               task.dilation[0] = dilation.first, task.dilation[1] = dilation.second;
               const int64_t blocks = ceil_div(filters, kImageLanes);
               require_fit(in_range(task.size[0], 1) && in_range(task.size[1], 1) && in_range(task.channels, 1) &&
                           length(weights, 0) == blocks && length(weights, 2) == kImageLanes &&
                           length(weights, 3) == kImageTaps && length(taps, 2) == kImageLanes * blocks &&
                           length(weights, 1) == ceil_div(task.size[0] * task.size[1] * task.channels, kImageTaps));
               if (sums) {
                   require_fit(!planes && !limits && !flip && length(*sums, 0) == task.images &&
                               length(*sums, 3) == filters);
                   task.out[0] = length(*sums, 1), task.out[1] = length(*sums, 2);
                   task.sums = sums->data();
               } else {
                   require_fit(planes && limits && flip && length(*planes, 1) == task.images &&
                               (length(*planes, 0) == 1 || length(*planes, 0) == 2) &&
                               length(*planes, 0) == length(*limits, 0) &&
                               length(*limits, 1) == kImageLanes * blocks &&
                               length(*planes, 4) == ceil_div(filters, 64) && length(*flip, 0) == length(*planes, 4));
                   task.out[0] = length(*planes, 2), task.out[1] = length(*planes, 3);
                   task.low = limits->data();
                   task.flip = flip->data();
                   task.sign = planes->data();
                   if (length(*planes, 0) == 2) {
                       task.high = limits->data() + length(*limits, 1);
                       task.nonzero = planes->data() + planes->size() / 2;
                   }
               }
               require(window_fits({task.height, task.width}, {task.size[0], task.size[1]}, stride, padding, dilation,
                                   {task.out[0], task.out[1]}),
                       "a window that slides over the images and fits the output was expected");
               return Call{[run = image_conv2d(task), x, weights, taps, sums, limits, flip, planes](int threads) {
                   run(threads);
               }};
           });
}

}  // namespace hypersign
