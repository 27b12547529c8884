// Products by bit-sliced counting: what an instruction set implements for the third method, of binary levels, which pays
// where filters are many.
//
// A register holds one level of 256 or 512 filters, a bit each: nothing is counted inside it. A sum is several
// registers too, its binary digits, and a full adder of two logical operations adds three registers of one weight:
// their digit stays, the carry goes to the next weight.
//
// The digit of a sum of disagreements x ^ w is the exclusive or of all x and all w. It needs no register: the filters'
// part is known, the pixel's is one bit. Only carries must be made. A step adds two levels (b, c) to the digit `run` of
// all levels before them:
//
//     carry = majority(x_run ^ w_run, x_b ^ w_b, x_c ^ w_c)
//
// The pixel's three bits are the same for all filters, so they choose one of eight registers: a table, made once for all
// pixels of a tile. 64 levels are 32 steps, their tables are 8 or 16 KiB. So two levels of 512 filters take a load and
// one full adder.
#pragma once
#include <cstdint>

#include "product/product.hpp"

namespace hypersign {

constexpr int kSlicedLevels = 64;    // of a chunk: those of one word of a pixel
constexpr int kSlicedChunks = 511;   // maximum of a filter

// The indices of a word of 64 levels of an input pixel: 8 (run + 2 b + 4 c) for each step, where `run` is the exclusive or
// of the word's own levels before the step.
struct SlicedIndices {
    alignas(32) uint8_t steps[kSlicedLevels / 2];
};

// The pixels of `tile`, at most `pixels`, with a block of 256 or 512 filters.
struct SlicedTask {
    ProductTile tile;      // binary; `weights`, `registers` are not read
    int64_t bits;          // of a register: 256 or 512 filters, of which `tile.filters` are there
    const uint8_t *planes; // [tap][word of 64 levels][level][bits]; where a filter's bit lies: `sliced_bit`
    const uint32_t *input; // the words from which `indices` and `odd` are made
    int64_t input_words;   // of 64 levels
    const SlicedIndices *indices;  // of each word of the input
    const uint8_t *odd;            // 1 where a word has an odd number of levels -1
};

// Filter 0 to bits - 1 of a block, as it lies in a plane: the bytes of each eighth of the filters, bit by bit.
inline int64_t sliced_bit(int64_t filter, int64_t bits) {
    return filter % (bits / 8) * 8 + filter / (bits / 8);
}

struct SlicedKernels {
    int64_t pixels;  // of a tile; they divide `ProductKernels::pixels`
    // Whether this is faster than tiles.
    bool (*faster)(int64_t pixels, int64_t bits);
    void (*write_indices)(const uint32_t *input, int64_t words, SlicedIndices *indices, uint8_t *odd);
    void (*run)(const SlicedTask &task);
};

extern const SlicedKernels sliced_avx512;

}  // namespace hypersign
