// Filters, packed for an instruction set, and their convolutions.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include "product/lookup/filters.hpp"
#include "product/product.hpp"
#include "product/sliced/filters.hpp"

namespace hypersign {

// Packed images (n, height, width, ceil(channels / 64)); the plane of non-zeros comes after that of signs.
struct PackedImages {
    const uint64_t *words;
    int64_t n, height, width;
    bool ternary;
};

struct Window {
    int64_t stride[2], padding[2], dilation[2];
    int pad_value;
    int64_t size(int axis, int64_t image, int64_t filter) const {
        return (image + 2 * padding[axis] - dilation[axis] * (filter - 1) - 1) / stride[axis] + 1;
    }
};

// Thresholds of sums, see hypersign.bits.Thresholds; low is null for sums, high is null for binary levels.
struct ProductThresholds {
    const int32_t *low, *high;
    const bool *flip;
};

// 32-bit words on cache lines.
struct FreeAligned {
    void operator()(uint32_t *p) const { ::operator delete[](p, std::align_val_t(64)); }
};
using AlignedWords = std::unique_ptr<uint32_t[], FreeAligned>;
inline AlignedWords aligned_words(size_t count) {
    return AlignedWords(new (std::align_val_t(64)) uint32_t[count > 0 ? count : 1]);
}

// A block of filters whose products are computed together.
struct FilterBlock {
    size_t start;  // in ProductFilters::weights
    int64_t first_filter;
    int64_t first_word, words;  // of a pixel that it reads
    int64_t depth;              // levels in those words
    int filters, registers;
};

// Constant once constructed.
struct ProductFilters {
    // Rows of ceil(rows * columns * depth / 64) words in (row, column, channel) order, one plane after the other.
    ProductFilters(const ProductKernels &kernels, const uint64_t *words, int64_t filters, int64_t rows,
                   int64_t columns, int64_t depth, int64_t groups, bool ternary);

    // Prepares a convolution. The function that it returns takes the number of threads, and may be called as long as
    // the filters exist. It writes int32 sums (pixels, filters), or words (pixels, ceil(filters / 64)), two planes of
    // them for ternary levels.
    std::function<void(int)> convolve(const PackedImages &images, const Window &window,
                                      const ProductThresholds &thresholds, void *out) const;

    // The same for sums that stay in the cache: each run of pixels, (size, filters) sums from the first pixel on, goes to
    // `take` on the thread that made it.
    using TakeSums = std::function<void(int64_t pixel, int64_t size, const int32_t *sums)>;
    std::function<void(int)> convolve(const PackedImages &images, const Window &window, TakeSums take) const;

    const ProductKernels &kernels;
    const int64_t filters, rows, columns, channels;
    bool ternary;    // also where groups made it so
    int64_t padded;  // filters in whole registers
    std::vector<FilterBlock> blocks;
    AlignedWords weights;
    std::vector<int32_t> nonzeros;  // of each filter
    // Sums of the levels of a filter's taps (0..i, 0..j): [i][j][filter], i up to `rows`, j up to `columns`
    // inclusive.
    std::vector<int32_t> tap_sums;
    mutable LookupFilters lookup;
    mutable SlicedFilters sliced;

   private:
    void divide_into_blocks(int64_t groups, int64_t merged, int64_t depth, int64_t row_words);
    void pack_blocks(const std::vector<uint32_t> &sign, const std::vector<uint32_t> &nonzero, int64_t row_words,
                     int64_t tap_words);
};

}  // namespace hypersign
