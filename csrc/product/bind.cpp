#include <algorithm>

#include "bind.hpp"
#include "integers.hpp"
#include "product/filters.hpp"
#include "training/training.hpp"

namespace hypersign {
namespace {

using Words = AnyArray<const uint64_t>;
using Thresholds = Array<const int32_t, 1>;
using Flips = Array<const bool, 1>;

// Words (filters, ceil(rows * columns * depth / 64)), or two planes of them.
void construct(ProductFilters *self, Words words, int64_t rows, int64_t columns, int64_t depth, int64_t groups) {
    require(words.ndim() == 2 || (words.ndim() == 3 && words.shape(0) == 2), "words (filters, words) were expected");
    const bool ternary = words.ndim() == 3;
    const int64_t filters = length(words, ternary);
    require(in_range(rows, 1) && in_range(columns, 1) && in_range(depth, 1) && in_range(groups, 1) &&
                rows * columns < kMaxOption && depth * groups < kMaxOption &&
                rows * columns * (depth * groups) < INT32_MAX,
            "sums of levels must be less than 2^31");
    require_fit(filters % groups == 0 && length(words, 1 + ternary) == ceil_div(rows * columns * depth, 64));
    GilReleased released;
    new (self) ProductFilters(*current_kernels().product, words.data(), filters, rows, columns, depth, groups, ternary);
}

// Images (n, height, width, words), or two planes of them. Writes int32 or float32 sums (n, height, width, filters)
// without thresholds, else levels (n, height, width, words), or two planes of them for `high`.
Call convolve(const ProductFilters &self, Words x, Pair stride, Pair padding, Pair dilation, int pad_value,
              std::optional<Thresholds> low, std::optional<Thresholds> high, std::optional<Flips> flip,
              AnyArray<> out) {
    require(x.ndim() == 4 || (x.ndim() == 5 && x.shape(0) == 2), "images (n, height, width, words) were expected");
    const bool ternary = x.ndim() == 5;
    const PackedImages images{x.data(), length(x, ternary), length(x, ternary + 1), length(x, ternary + 2), ternary};
    const Window window{
        {stride.first, stride.second}, {padding.first, padding.second}, {dilation.first, dilation.second}, pad_value};
    const bool floats = out.dtype() == nb::dtype<float>();
    const size_t first = out.ndim() == 5 ? 1 : 0;  // the axis of images
    require_fit(out.ndim() == (high ? 5 : 4) && (!high || (out.shape(0) == 2)) &&
                length(x, ternary + 3) == ceil_div(self.channels, 64) && length(out, first) == images.n &&
                length(out, first + 3) == (low ? ceil_div(self.filters, 64) : self.filters) &&
                (low ? out.dtype() == nb::dtype<uint64_t>() : floats || out.dtype() == nb::dtype<int32_t>()));
    require(window_fits({images.height, images.width}, {self.rows, self.columns}, stride, padding, dilation,
                        {length(out, first + 1), length(out, first + 2)}) &&
                (pad_value == 0 || pad_value == 1),
            "a window that slides over the images and fits the output was expected");
    require_fit(low.has_value() == flip.has_value() && (low || !high) &&
                (!low || (length(*low, 0) == self.filters && length(*flip, 0) == self.filters)) &&
                (!high || length(*high, 0) == self.filters));
    if (floats) {
        auto *const y = static_cast<float *>(out.data());
        const bool stream = streams(y, static_cast<int64_t>(out.size()) / std::max<int64_t>(1, self.filters), self.filters);
        const auto take = [y, stream, filters = self.filters](int64_t pixel, int64_t count, const int32_t *sums) {
            current_kernels().training->to_floats(sums, count * filters, stream, y + pixel * filters);
        };
        return Call{[run = self.convolve(images, window, take), x, out](int threads) { run(threads); }};
    }
    const ProductThresholds thresholds{low ? low->data() : nullptr, high ? high->data() : nullptr,
                                       flip ? flip->data() : nullptr};
    return Call{[run = self.convolve(images, window, thresholds, out.data()), x, low, high, flip, out](int threads) {
        run(threads);
    }};
}

}  // namespace

void bind_product(nb::module_ &m) {
    nb::class_<ProductFilters> filters(m, "Filters");
    define_method(filters, "__init__",
                  [](ProductFilters *self, Words words, int64_t rows, int64_t columns, int64_t depth, int64_t groups) {
                      construct(self, words, rows, columns, depth, groups);
                  });
    define_method(
        filters, "convolve",
        [](const ProductFilters &self, Words x, Pair stride, Pair padding, Pair dilation, int pad_value,
           std::optional<Thresholds> low, std::optional<Thresholds> high, std::optional<Flips> flip, AnyArray<> out) {
            return convolve(self, x, stride, padding, dilation, pad_value, low, high, flip, out);
        },
        nb::keep_alive<0, 1>());  // the call's filters
    define(m, "product_peak", [](int64_t rounds) {
        require(rounds >= 0, "rounds must be at least 0");
        GilReleased released;
        return current_kernels().product->peak(rounds);
    });
}

}  // namespace hypersign
