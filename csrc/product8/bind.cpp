#include <cmath>

#include "bind.hpp"
#include "integers.hpp"
#include "product8/product8.hpp"

namespace hypersign {
namespace {

using Words = AnyArray<const uint64_t>;
using Scale = std::optional<Array<const float, 2>>;

// Words (filters, ceil(depth / 64)), or two planes of them; scale (filters, ceil(depth / group)).
void construct(Product8Filters *self, Words words, int64_t depth, Scale scale, int64_t group) {
    require(words.ndim() == 2 || (words.ndim() == 3 && words.shape(0) == 2), "words (filters, words) were expected");
    const bool ternary = words.ndim() == 3;
    const int64_t filters = length(words, ternary);
    require(depth >= 1 && depth < kProduct8Depth, "1 to 2^19 - 1 levels were expected");
    require(group >= 1 && group <= depth, "a group of 1 to all levels was expected");
    require_fit(length(words, 1 + ternary) == ceil_div(depth, 64) &&
                (!scale || (length(*scale, 0) == filters && length(*scale, 1) == ceil_div(depth, group))));
    GilReleased released;
    new (self) Product8Filters(*current_kernels().product8, words.data(), filters, depth, ternary, scale ? scale->data() : nullptr, group);
}

}  // namespace

void bind_product8(nb::module_ &m) {
    nb::class_<Product8Filters> filters(m, "Product8Filters");
    define_method(filters, "__init__",
                  [](Product8Filters *self, Words words, int64_t depth, Scale scale, int64_t group) {
                      construct(self, words, depth, scale, group);
                  });
    // x (rows, depth) to sums (rows, filters), or to scaled sums with a scale of each row.
    define_method(filters, "sums",
                  [](const Product8Filters &self, Array<const int8_t, 2> x, Array<int32_t, 2> y, int threads) {
                      require_fit(length(x, 1) == self.depth && length(y, 0) == length(x, 0) &&
                                  length(y, 1) == self.filters);
                      threads = checked_threads(threads);
                      GilReleased released;
                      self.multiply(x.data(), length(x, 0), y.data(), nullptr, nullptr, threads);
                  });
    define_method(filters, "scaled",
                  [](const Product8Filters &self, Array<const int8_t, 2> x, Array<const float, 1> x_scale,
                     Array<float, 2> y, int threads) {
                      require_fit(length(x, 1) == self.depth && length(x_scale, 0) == length(x, 0) &&
                                  length(y, 0) == length(x, 0) && length(y, 1) == self.filters);
                      threads = checked_threads(threads);
                      GilReleased released;
                      self.multiply(x.data(), length(x, 0), nullptr, y.data(), x_scale.data(), threads);
                  });
    define(m, "product8_peak", [](int64_t rounds) {
        require(rounds >= 0, "rounds must be at least 0");
        GilReleased released;
        return current_kernels().product8->peak(rounds);
    });
}

}  // namespace hypersign
