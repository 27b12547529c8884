// Products by lookup tables: what an instruction set implements for the second method. It is the method of the four
// Russians (Arlazarov, Dinic, Kronrod and Faradzhev, 1970), and pays where many rows meet one block.
//
// A LUT index stands for a few neighbouring levels of a row: 5 binary levels are one of 32 indices. A table of a
// block holds the block's partial counts for each of those indices, so a row adds one table entry instead of
// multiplying 5 levels. The levels of a tap are divided into slices, whose tables fit the L1 cache together. One
// lookup-table pass fills the tables of a slice of a tap and lets all rows add their entries; a task makes a pass for
// each slice of each tap.
//
// Rows are pixels and the block is of filters; or, for few pixels and many filters, rows are filters and the block is
// of 64 pixels.
#pragma once
#include <cstdint>

#include "product/product.hpp"

namespace hypersign {

constexpr int kLookupPixels = 64;  // of a block, where rows are filters

// Rows times a block. The indices of a row begin at `indices + row_offsets[row] + tap_offsets[tap]` in each slice.
struct LookupTask {
    ProductTile tile;            // without `x`, `table_offsets` and `weights`
    const void *block;           // as written by `pack_weights`: tile.registers registers of filters, or the pixels
    int64_t rows;                // at most kMaxRun
    const uint8_t *indices;
    int64_t slice_stride;        // bytes from a slice to the next
    const int64_t *row_offsets;  // bytes, of rows + 1 rows
    const int64_t *tap_offsets;  // bytes, of each tap
};

// A block of filters whose indices are to be written.
struct FilterIndices {
    const void *block;
    bool ternary;
    int64_t filters, taps, words, depth;
    uint8_t *indices;
    int64_t slice_stride, tap_stride;  // in bytes
};

struct LookupKernels {
    // Rows are pixels.
    int64_t index_bytes;  // of a pixel's indices in a slice
    // Whether lookups are exact, and faster than tiles.
    bool (*faster)(int64_t pixels, int64_t levels_of_filter, int registers_of_block);
    int64_t (*slices)(bool ternary, int64_t depth);
    // Writes one slice of pixels of `depth` levels that are `stride` words apart; nonzero is null for binary inputs.
    void (*write_indices)(const uint32_t *sign, const uint32_t *nonzero, int64_t depth, int64_t pixels, int64_t stride,
                          int64_t slice, uint8_t *indices);
    void (*run)(const LookupTask &task);

    // The same where rows are filters; inputs and filters are both binary or both ternary.
    int64_t filter_index_bytes;
    bool (*filters_faster)(int64_t pixels, int64_t levels_of_filter, int64_t filters);
    int64_t (*filter_slices)(bool ternary, int64_t depth);
    void (*write_filter_indices)(const FilterIndices &filters);
    void (*run_filters)(const LookupTask &task);
};

extern const LookupKernels lookup_avx2;

}  // namespace hypersign
