#include <climits>

#include "bind.hpp"
#include "integers.hpp"
#include "training/training.hpp"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace hypersign {
namespace {

using Numbers = Array<const float, 1>;

const float *data(const std::optional<Numbers> &array) { return array ? array->data() : nullptr; }

Pool pool_of(int64_t images, Pair size, int64_t channels, Pair window, Pair out) {
    require(in_range(window.first, 1) && in_range(window.second, 1) && window.first <= 256 &&
                window.first * window.second <= 256,
            "a window of at most 256 pixels was expected");
    const auto fits = [](int64_t size, int64_t window, int64_t out) {
        return out >= 0 && out <= kMaxOption && (out - 1) * window < size;
    };
    require_fit(fits(size.first, window.first, out.first) && fits(size.second, window.second, out.second));
    return {images,         size.first, size.second, channels, {window.first, window.second},
            {out.first, out.second}};
}

template <class Number>
const auto max_pool_gradient_of = [](Array<const Number, 4> g, Array<const uint8_t, 4> place, Array<Number, 4> out,
                                     Pair window, int threads) {
    require_fit(length(g, 0) == length(out, 0) && length(g, 3) == length(out, 3));
    for (size_t i = 0; i < 4; ++i) require_fit(place.shape(i) == g.shape(i));
    const Pool task = pool_of(length(out, 0), {length(out, 1), length(out, 2)}, length(out, 3), window,
                              {length(g, 1), length(g, 2)});
    threads = checked_threads(threads);
    GilReleased released;
    max_pool_gradient(task, g.data(), place.data(), out.data(), threads);
};

}  // namespace

void bind_training(nb::module_ &m) {
    define(m, "batch_norm",
           [](Array<const float, 2> x, std::optional<Numbers> weight, std::optional<Numbers> bias, double epsilon,
              Array<float, 2> y, Array<float, 1> mean, Array<float, 1> variance, Array<float, 1> inverse,
              int threads) {
               const int64_t rows = length(x, 0), channels = length(x, 1);
               require(rows >= 1 && channels >= 1, "rows of channels were expected");
               require_fit(length(y, 0) == rows && length(y, 1) == channels && length(mean, 0) == channels &&
                           length(variance, 0) == channels && length(inverse, 0) == channels &&
                           (!weight || length(*weight, 0) == channels) && (!bias || length(*bias, 0) == channels));
               threads = checked_threads(threads);
               GilReleased released;
               batch_norm({rows, channels, x.data(), data(weight), data(bias), epsilon}, y.data(), mean.data(),
                          variance.data(), inverse.data(), threads);
           });
    define(m, "batch_norm_gradient",
           [](Array<const float, 2> g, Array<const float, 2> x, std::optional<Numbers> weight, Numbers mean,
              Numbers inverse, Array<float, 2> to_x, Array<float, 1> to_weight, Array<float, 1> to_bias,
              int threads) {
               const int64_t rows = length(x, 0), channels = length(x, 1);
               require(rows >= 1 && channels >= 1, "rows of channels were expected");
               for (size_t i = 0; i < 2; ++i) require_fit(g.shape(i) == x.shape(i) && to_x.shape(i) == x.shape(i));
               require_fit(length(mean, 0) == channels && length(inverse, 0) == channels &&
                           length(to_weight, 0) == channels && length(to_bias, 0) == channels &&
                           (!weight || length(*weight, 0) == channels));
               threads = checked_threads(threads);
               GilReleased released;
               batch_norm_gradient({rows, channels, x.data(), data(weight), nullptr, 0}, g.data(), mean.data(),
                                   inverse.data(), to_x.data(), to_weight.data(), to_bias.data(), threads);
           });
    define(m, "two_slopes",
           [](Array<const float, 2> x, Numbers before, Numbers left, Numbers right, Numbers after, Array<float, 2> y,
              int threads) {
               const int64_t rows = length(x, 0), channels = length(x, 1);
               require(rows >= 1 && channels >= 1, "rows of channels were expected");
               require_fit(length(y, 0) == rows && length(y, 1) == channels && length(before, 0) == channels &&
                           length(left, 0) == channels && length(right, 0) == channels &&
                           length(after, 0) == channels);
               threads = checked_threads(threads);
               GilReleased released;
               two_slopes({rows, channels, x.data(), before.data(), left.data(), right.data(), after.data()},
                          y.data(), threads);
           });
    define(m, "two_slopes_gradient",
           [](Array<const float, 2> g, Array<const float, 2> x, Numbers before, Numbers left, Numbers right,
              Array<float, 2> to_x, Array<float, 2> to_pieces, int threads) {
               const int64_t rows = length(x, 0), channels = length(x, 1);
               require(rows >= 1 && channels >= 1, "rows of channels were expected");
               for (size_t i = 0; i < 2; ++i) require_fit(g.shape(i) == x.shape(i) && to_x.shape(i) == x.shape(i));
               require_fit(length(before, 0) == channels && length(left, 0) == channels &&
                           length(right, 0) == channels && length(to_pieces, 0) == 4 &&
                           length(to_pieces, 1) == channels);
               threads = checked_threads(threads);
               GilReleased released;
               two_slopes_gradient({rows, channels, x.data(), before.data(), left.data(), right.data(), nullptr},
                                   g.data(), to_x.data(), to_pieces.data(), threads);
           });
    define(m, "pack_clipped",
           [](Array<const float, 2> x, float clip, Array<uint64_t, 2> minus, Array<uint64_t, 2> inside, int threads) {
               const int64_t rows = length(x, 0), n = length(x, 1);
               require(n >= 1, "rows of numbers were expected");
               require_fit(length(minus, 0) == rows && length(inside, 0) == rows &&
                           length(minus, 1) == ceil_div(n, 64) && length(inside, 1) == ceil_div(n, 64));
               threads = checked_threads(threads);
               GilReleased released;
               pack_clipped(x.data(), rows, n, clip, minus.data(), inside.data(), threads);
           });
    define(m, "max_pool_floats",
           [](Array<const float, 4> x, Array<float, 4> y, Array<uint8_t, 4> place, Pair window, int threads) {
               require_fit(length(y, 0) == length(x, 0) && length(y, 3) == length(x, 3));
               for (size_t i = 0; i < 4; ++i) require_fit(place.shape(i) == y.shape(i));
               const Pool task = pool_of(length(x, 0), {length(x, 1), length(x, 2)}, length(x, 3), window,
                                         {length(y, 1), length(y, 2)});
               threads = checked_threads(threads);
               GilReleased released;
               max_pool(task, x.data(), y.data(), place.data(), threads);
           });
    define(m, "max_pool_floats_gradient", max_pool_gradient_of<float>);
    define(m, "max_pool_bytes_gradient", max_pool_gradient_of<int8_t>);
    define(m, "adam",
           [](Numbers g, Array<float, 1> w, Array<float, 1> m, Array<float, 1> v, float clip, float decay,
              float shrink, float first, float keep, float second, float step, float correction, float epsilon,
              float limit, int threads) {
               const int64_t n = length(g, 0);
               require_fit(length(w, 0) == n && length(m, 0) == n && length(v, 0) == n);
               threads = checked_threads(threads);
               GilReleased released;
               return adam_update({clip, decay, shrink, first, keep, second, step, correction, epsilon, limit},
                                  g.data(), n, w.data(), m.data(), v.data(), threads);
           });
    define(m, "sum_of_squares", [](Numbers x, int threads) {
        threads = checked_threads(threads);
        GilReleased released;
        return sum_of_squares(x.data(), length(x, 0), threads);
    });
    // Freed memory stays in the process. A step frees and takes the same sizes again; fresh pages would be cleared.
    m.def("keep_freed_memory", [] {
#if defined(__GLIBC__)
        mallopt(M_MMAP_MAX, 0);
        mallopt(M_TRIM_THRESHOLD, INT_MAX);
        mallopt(M_TOP_PAD, 64 << 20);
#endif
    });
}

}  // namespace hypersign
