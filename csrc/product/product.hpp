// Products of packed levels: matrix products and convolutions of binary or ternary inputs with binary or ternary
// filters. All of them are one loop: for a pixel of the output, a list of pointers to the words of its taps (the
// pixels of the input under the filter) against a block of filters, words of 32 bits at a time.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "backend.hpp"

namespace hypersign {

// Pixels of a tile at most, and of a sweep.
constexpr int kPixels = 128, kSweep = 1024;
// Of a transposed sweep at most.
constexpr int kTransposedPixels = 64;

// A run of pixels of the output times a block of filters. What a kernel counts is v, with which a sum is
//     offset - 2 v  where the input is binary:  v = disagreements (where the filters are ternary: at their non-zeros)
//     offset - v    where it is ternary:        v = disagreements - agreements
struct ProductTile {
    bool ternary_x, ternary_w;
    int registers;        // of filters, each of ProductKernels::lanes filters; a power of two
    int64_t pixels;       // at most kPixels
    int64_t taps, words;  // words of a tap, of 32 bits
    const uint32_t *const *x;  // pointers [tap][plane][kPixels] to pixels of the input
    int64_t first_word;        // of the pixels, from which on the block reads
    const uint16_t *places;    // what `place` made of the pixels, for kernels that have one
    const void *weights;       // the block, as arranged by the kernels
    // Per pixel, numbers of all filters, those of the block from `first_filter` on: the sums' offset; or, for levels,
    // `low`, and `high` at `high_stride` from it: level -1 where v > low, +1 where v <= high, negated where `flip`
    // (a bit a filter of the block).
    const int32_t *const *limits;
    int64_t first_filter, high_stride;
    const uint16_t *flip;
    // One of the two is null. Sums go out for `filters` filters; levels for all lanes, 16 to a piece.
    int32_t *sums;
    int filters;
    int64_t sums_stride;  // between pixels
    uint16_t *levels;
    int64_t levels_stride, levels_plane;  // in pieces, between pixels and between planes; no second plane: 0
};

// Many pixels of the output, up to kSweep, times a block of filters, for kernels that read the input as numbers of some
// levels each. Those of a pixel of the input are in slices, `slot` places each; those of all pixels lie together.
// Transposed, few pixels times many filters: the filters are numbers, and the pixels a block.
struct ProductSweep {
    ProductTile tile;         // without `x`, `places` and `weights`
    const void *block;        // as arranged by the kernels: of tile.registers registers; or 64 pixels
    int64_t rows;             // that are numbers: pixels of the output, or filters
    const uint8_t *places;
    int64_t slice;            // places from one to the next
    const int64_t *at;        // for each row, and one more: places before those of its first tap
    const int64_t *taps;      // from the first tap to each
};

// The filters of a block, to be written as numbers.
struct ProductNumbers {
    const void *block;
    bool ternary;
    int64_t filters, taps, words;
    uint8_t *places;
    int64_t slice, tap;  // places from one to the next
};

struct ProductSweeps {
    int64_t slot;
    // Whether sweeps are exact, and faster than tiles, for so many pixels, levels of a filter, and registers of a block.
    bool (*better)(int64_t pixels, int64_t levels, int registers);
    int64_t (*slices)(bool ternary, int64_t words);
    // Writes a slice of pixels that lie `stride` words apart; nonzero is null for binary inputs.
    void (*number)(const uint32_t *sign, const uint32_t *nonzero, int64_t words, int64_t pixels, int64_t stride,
                   int64_t slice, uint8_t *places);
    void (*run)(const ProductSweep &sweep);

    // The same transposed, where inputs and filters are both binary, or both ternary.
    int64_t transposed_slot;
    bool (*transposed_better)(int64_t pixels, int64_t levels, int64_t filters);
    int64_t (*transposed_slices)(bool ternary, int64_t words);
    void (*transposed_number)(const ProductNumbers &filters);
    void (*transposed_run)(const ProductSweep &sweep);
};

struct ProductKernels {
    int lanes;                     // filters in a register, 16 or 32
    int most_binary, most_ternary;  // registers of filters in a block at most, powers of two
    int pixels, pixels_to_levels;   // of a tile, where sums go out and where levels do
    // Writes a block: `words` words of `filters` filters (a multiple of `lanes`), rows in `sign`, for ternary filters
    // in `nonzero` too, into as many bytes as they take there.
    void (*arrange)(const uint32_t *const *sign, const uint32_t *const *nonzero, int64_t words, int filters,
                    void *block);
    void (*tile)(const ProductTile &tile);
    // The kernel's inner loop on registers alone: what the machine can do at most. Returns multiply-accumulates done.
    int64_t (*limit)(int64_t rounds);
    // For kernels that do not read the input's words as they are: writes what `tile` reads instead, for all blocks that
    // read the same words of the same pixels, into `room` numbers.
    void (*place)(const ProductTile &tile, uint16_t *places) = nullptr;
    int64_t (*room)(const ProductTile &tile) = nullptr;
    const ProductSweeps *sweeps = nullptr;  // for many pixels
};

extern const ProductSweeps sweeps_avx2;
extern const ProductKernels product_portable, product_avx2, product_avx512, product_neon;
const ProductKernels &product_kernels(Backend backend);

// The usual arrangement: [word][plane][filter], so that a register holds one word of 16 filters.
void arrange_words(const uint32_t *const *sign, const uint32_t *const *nonzero, int64_t words, int filters, void *block);

// Packed images (n, height, width, ceil(channels / 64)); the plane of non-zeros lies after that of signs.
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

// Thresholds of sums, see hypersign.bits.Thresholds; low is null where sums are wanted, high for binary levels.
struct ProductThresholds {
    const int32_t *low, *high;
    const bool *flip;
};

// Filters as the kernels want them.
class ProductFilters {
   public:
    // Rows of ceil(rows * columns * depth / 64) words in (row, column, channel) order, planes after another.
    ProductFilters(const ProductKernels &kernels, const uint64_t *words, int64_t filters, int64_t rows,
                   int64_t columns, int64_t depth, int64_t groups, bool ternary);

    // A convolution made ready, which is called with a number of threads, as long as the filters are there: into int32
    // (pixels, filters), or words (pixels, ceil(filters / 64)), two planes of them for ternary levels.
    std::function<void(int)> convolve(const PackedImages &images, const Window &window,
                                      const ProductThresholds &thresholds, void *out) const;

    const int64_t filters, rows, columns, channels;

   private:
    class Convolution;
    struct Block {
        size_t start;  // in weights_
        int64_t first_filter, first_word, words;
        int filters, registers;
    };
    struct Free {
        void operator()(uint32_t *p) const { ::operator delete[](p, std::align_val_t(64)); }
    };

    const std::vector<uint8_t> &numbers() const;

    const ProductKernels &kernels_;
    bool ternary_;
    int64_t padded_;  // filters in whole registers
    std::vector<Block> blocks_;
    std::unique_ptr<uint32_t[], Free> weights_;
    mutable std::atomic<int64_t> uses_{0};  // where sweeps could be transposed
    mutable std::once_flag numbered_;
    mutable std::vector<uint8_t> numbers_;  // of filters, once a sweep was: [slice][tap][filter][slot]
    std::vector<int32_t> nonzeros_;  // of each filter
    // Sums of the levels of a filter's taps (0..i, 0..j): [i][j][filter], i to `rows`, j to `columns` inclusive.
    std::vector<int32_t> tap_sums_;
};

}  // namespace hypersign
