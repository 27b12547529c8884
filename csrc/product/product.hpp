// Products of packed levels: matrix products and convolutions of binary or ternary inputs with binary or ternary
// filters. This header is what an instruction set implements.
//
// All products are one loop: for each pixel of the output there is a list of pointers to the pixels of the input
// under the filter (its taps); their words of 32 bits meet the words of a block of filters.
#pragma once
#include <cstdint>

#include "instruction_sets.hpp"

namespace hypersign {

struct LookupKernels;  // product/lookup/lookup.hpp
struct SlicedKernels;  // product/sliced/sliced.hpp

constexpr int kPixels = 128;  // maximum of a tile
constexpr int kMaxRun = 1024;  // maximum of pixels that share their preparation: those of a tile, or of lookups

// A run of output pixels times a block of filters. Kernels count v; the product's sum is
//     offset - 2 v  for binary inputs:   v = disagreements (for ternary filters: at their non-zeros)
//     offset - v    for ternary inputs:  v = disagreements - agreements
struct ProductTile {
    bool ternary_x, ternary_w;
    int registers;        // of filters, each of ProductKernels::lanes filters; a power of two
    int64_t pixels;       // at most kPixels
    int64_t taps, words;  // words of 32 bits per tap
    int64_t depth;        // levels per tap
    const uint32_t *const *x;       // pointers to input pixels, [tap][plane][kPixels]
    int64_t first_word;             // of a pixel that the block reads
    const uint16_t *table_offsets;  // the output of `write_table_offsets`, for kernels that have it
    const void *weights;            // the block, as written by `pack_weights`
    // Epilogue: a row of numbers for each pixel, one per filter; the block's begin at `first_filter`. For sums they
    // are the offsets. For levels they are thresholds, low ones, and high ones `high_stride` further: the level is -1
    // where v > low, +1 where v <= high, negated where `flip` has a 1 (one bit per filter of the block).
    const int32_t *const *thresholds;
    int64_t first_filter, high_stride;
    const uint16_t *flip;
    // The output; either `sums` or `levels` is null. Sums are written for `filters` filters, levels for all lanes, 16
    // per piece.
    int32_t *sums;
    int filters;
    int64_t sums_stride;  // between pixels
    uint16_t *levels;
    int64_t levels_stride, levels_plane;  // in pieces, between pixels and between planes; levels_plane 0: binary
};

struct ProductKernels {
    int lanes;                                       // filters per register, 16 or 32
    int max_binary_registers, max_ternary_registers;  // of a block of filters, powers of two
    int pixels, pixels_to_levels;                    // of a tile that writes sums, and of one that writes levels
    // Writes a block of weights: `words` words of `filters` filters (a multiple of `lanes`), rows in `sign`, and for
    // ternary filters in `nonzero`. The block takes as many bytes as the rows.
    void (*pack_weights)(const uint32_t *const *sign, const uint32_t *const *nonzero, int64_t words, int filters,
                         void *block);
    void (*tile)(const ProductTile &tile);
    // The inner loop on registers alone: the peak speed of the machine. Returns the multiply-accumulates done.
    int64_t (*peak)(int64_t rounds);
    // For kernels that read table offsets instead of the input's words: writes those of the tile's pixels, for all
    // blocks of filters that read the same words, into a workspace of `workspace_size` numbers.
    void (*write_table_offsets)(const ProductTile &tile, uint16_t *table_offsets) = nullptr;
    int64_t (*workspace_size)(const ProductTile &tile) = nullptr;
    const LookupKernels *lookup = nullptr;  // a second method, for many pixels
    const SlicedKernels *sliced = nullptr;  // a third, for many filters; it needs `pack_weights_by_word`
};

// The usual order of weights: [word][plane][filter], so that a register holds one word of 16 filters.
void pack_weights_by_word(const uint32_t *const *sign, const uint32_t *const *nonzero, int64_t words, int filters,
                          void *block);

}  // namespace hypersign
