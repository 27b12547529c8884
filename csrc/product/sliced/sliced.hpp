// Products by bit-sliced counting: what an instruction set implements for the third method, of binary levels, which pays
// where filters are many.
//
// A register holds one level of 512 filters, a bit each: nothing is counted inside it. A sum is several registers too,
// its binary digits, and a full adder of two logical operations adds three registers of one weight:
// their digit stays, the carry goes to the next weight.
//
// The digit of a sum of disagreements x ^ w is the exclusive or of all x and all w. It needs no register: the filters'
// part is known, the pixel's is one bit. Only carries must be made. A step adds two levels (b, c) to the digit `run` of
// all levels before them:
//
//     carry = majority(x_run ^ w_run, x_b ^ w_b, x_c ^ w_c)
//
// The pixel's three bits are the same for all filters, so they choose one of eight registers: a table, made once for all
// pixels of a tile. 64 levels, a chunk, are 32 steps, and their tables 16 KiB. So two levels of 512 filters take a load
// and one full adder.
#pragma once
#include <cstdint>

#include "product/product.hpp"

namespace hypersign {

constexpr int kSlicedLevels = 64;    // of a chunk: those of one word of a pixel
constexpr int kSlicedChunks = 511;   // maximum of a filter
constexpr int kSlicedFilters = 512;  // of a block

// The indices of a word of 64 levels of an input pixel: 8 (run + 2 b + 4 c) for each step, where `run` is the exclusive or
// of the word's own levels before the step.
struct SlicedIndices {
    alignas(32) uint8_t steps[kSlicedLevels / 2];
};

// The pixels of `tile`, at most `pixels`, with a block of at most 512 filters.
struct SlicedTask {
    ProductTile tile;       // binary; `weights`, `registers` are not read
    const uint8_t *planes;  // [chunk][level][filter]; `sliced_bit` says where a filter's bit lies
    const uint32_t *input;  // the words from which `indices` and `odd` are made
    int64_t input_words;    // of 64 levels
    const SlicedIndices *indices;  // of each word of the input
    const uint8_t *odd;            // 1 where a word has an odd number of levels -1
};

// Where a filter's bit lies in a plane: 64 bytes hold the first 64 filters in their lowest bits, and so on.
inline int64_t sliced_bit(int64_t filter) { return filter % 64 * 8 + filter / 64; }

struct SlicedKernels {
    int64_t pixels;  // of a tile; they divide `ProductKernels::pixels`
    // Whether this is faster than tiles.
    bool (*faster)(int64_t pixels);
    void (*write_indices)(const uint32_t *input, int64_t words, SlicedIndices *indices, uint8_t *odd);
    void (*run)(const SlicedTask &task);
};

extern const SlicedKernels sliced_avx512;

}  // namespace hypersign
