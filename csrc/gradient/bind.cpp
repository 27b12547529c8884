#include "bind.hpp"
#include "gradient/gradient.hpp"
#include "integers.hpp"

namespace hypersign {
namespace {

GradientShape shape_of(int64_t images, Pair size, int64_t channels, Pair outputs, int64_t filters, Pair kernel,
                       Pair stride, Pair padding, Pair dilation, int64_t planes) {
    require((planes == 1 || planes == 2) && in_range(channels, 1) &&
                window_fits(size, kernel, stride, padding, dilation, outputs) &&
                kernel.first * kernel.second <= kMaxOption,
            "a window that slides over the images and fits the gradient was expected");
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

}  // namespace

void bind_gradient(nb::module_ &m) {
    define(m, "round_gradients",
           [](Array<const float, 3> x, uint64_t seed, Array<int8_t, 3> by_image, Array<float, 1> image_scales,
              Array<int8_t, 3> by_filter, Array<float, 1> filter_scales, int threads) {
               const int64_t images = length(x, 0), pixels = length(x, 1), filters = length(x, 2);
               for (size_t i = 0; i < 3; ++i)
                   require_fit(by_image.shape(i) == x.shape(i) && by_filter.shape(i) == x.shape(i));
               require_fit(length(image_scales, 0) == images && length(filter_scales, 0) == filters);
               threads = checked_threads(threads);
               GilReleased released;
               round_gradients(x.data(), images, pixels, filters, seed, by_image.data(), image_scales.data(),
                               by_filter.data(), filter_scales.data(), threads);
           });
    define(m, "input_gradient",
           [](Array<const int8_t, 4> q, Array<const float, 1> scales, Array<const uint64_t, 3> words,
              std::optional<Array<const uint64_t, 4>> inside, Array<float, 4> out, Pair kernel, Pair stride,
              Pair padding, Pair dilation, int threads) {
               const GradientShape shape = shape_of(length(q, 0), {length(out, 1), length(out, 2)}, length(out, 3),
                                                    {length(q, 1), length(q, 2)}, length(q, 3), kernel, stride,
                                                    padding, dilation, length(words, 0));
               const int64_t d = kernel.first * kernel.second * shape.channels;
               require_fit(length(out, 0) == shape.images && length(scales, 0) == shape.images &&
                           length(words, 1) == shape.filters && length(words, 2) == ceil_div(d, 64));
               if (inside) {
                   for (size_t i = 0; i < 3; ++i) require_fit(inside->shape(i) == out.shape(i));
                   require_fit(length(*inside, 3) == ceil_div(shape.channels, 64));
               }
               threads = checked_threads(threads);
               GilReleased released;
               input_gradient(shape, q.data(), scales.data(), words.data(), inside ? inside->data() : nullptr,
                              out.data(), threads);
           });
    define(m, "weight_gradient",
           [](Array<const int8_t, 4> q, Array<const float, 1> scales, Array<const uint64_t, 5> x,
              std::optional<Array<const uint64_t, 2>> inside, Array<float, 4> out, Pair stride, Pair padding,
              Pair dilation, int64_t pad_value, int threads) {
               const GradientShape shape = shape_of(length(q, 0), {length(x, 2), length(x, 3)}, length(out, 3),
                                                    {length(q, 1), length(q, 2)}, length(q, 3),
                                                    {length(out, 1), length(out, 2)}, stride, padding, dilation,
                                                    length(x, 0));
               require_fit(length(x, 1) == shape.images && length(scales, 0) == shape.filters &&
                           length(out, 0) == shape.filters && length(x, 4) == ceil_div(shape.channels, 64) &&
                           (pad_value == 0 || pad_value == 1));
               const int64_t d = shape.kernel[0] * shape.kernel[1] * shape.channels;
               require_fit(!inside || (length(*inside, 0) == shape.filters && length(*inside, 1) == ceil_div(d, 64)));
               threads = checked_threads(threads);
               GilReleased released;
               weight_gradient(shape, q.data(), scales.data(), x.data(), pad_value, inside ? inside->data() : nullptr,
                               out.data(), threads);
           });
}

}  // namespace hypersign
