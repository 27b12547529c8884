// Products of 8-bit inputs with binary or ternary weights, exact in 32-bit integers.
//
//     y[m][n] = sum over k of x[m][k] w[n][k],   x from -128 to 127,   w -1, +1 or -1, 0, +1
//
// A weight is stored as an unsigned code: 1 for -1 and 0 for +1 (binary, one bit), or w + 1 (ternary, two bits). The
// kernels add up the codes times x; the sum of x corrects the result:
//
//     binary: y = sum x - 2 sum code x      ternary: y = sum code x - sum x
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "instruction_sets.hpp"

namespace hypersign {

constexpr int64_t kProduct8Lanes = 32;  // filters of a block, side by side
constexpr int64_t kProduct8Quad = 4;    // adjacent inputs that one instruction multiplies and adds
constexpr int64_t kProduct8Step = kProduct8Lanes * kProduct8Quad;  // bytes of a step of a block

// Levels must be fewer than this. Sums of shifted codes then stay below 2^31.
constexpr int64_t kProduct8Depth = int64_t{1} << 19;

// Some rows of inputs with one block of filters.
//
// A group of weights has a scale of its own. Its inputs are divided into `positions` equal parts: 8 / bits. A byte of
// the weights holds one code of each part, part 0 in the lowest bits. So masks pick codes, and no code is moved.
struct Product8Tile {
    const uint8_t *weights;  // (groups, steps, 32 filters, 4)
    int bits;                // of a code: 1 or 2
    int64_t groups, steps;
    const int8_t *x;        // (groups, positions, steps, rows, 4)
    int64_t rows;           // the most that the kernels take at once, or a smaller power of two
    const int32_t *x_sums;  // (rows, groups)

    // Either sums of all groups or scaled sums: x_scale[row] times the sum over groups of sum[group] scale[group],
    // added in this order, each operation rounded to float32.
    int32_t *sums;
    float *scaled;
    const float *scale;    // (groups, 32)
    const float *x_scale;  // (rows)
    int64_t count, pitch_y;  // filters of the block, and the distance of rows of the result

    int64_t group_bytes() const { return steps * kProduct8Step; }
    int64_t part_bytes() const { return steps * rows * kProduct8Quad; }  // of the inputs of a position
};

// Lookup tables for many rows with weights of one group.
struct Product8Rows {
    const int8_t *x;  // (rows, depth)
    int64_t depth, steps;
    const uint8_t *indices;  // (ceil(steps / 2), pitch filters, bytes of `Product8Tables`)
    int64_t pitch, count;    // count: filters that there are
    uint8_t *work;         // for each row, 6 bytes per filter and 2 per input

    // Either sums or scaled sums, as in a tile.
    int32_t *sums;
    float *scaled;
    const float *scale, *x_scale;
    int64_t pitch_y;
};

// Rows of inputs in the order of a tile.
struct Product8Order {
    const int8_t *x;  // (rows, depth)
    int64_t rows, depth, group, groups, padded;  // padded: inputs of a group, with zeros up to whole steps
    int8_t *to;       // (groups, padded / 4, rows, 4)
    int32_t *x_sums;  // (rows, groups)
};

// Lookup tables for few rows with binary weights. 64 filters share a vector of bytes; byte 2 i belongs to filter
// product8_filter(i), and byte 2 i + 1 to the one 32 after it. Each byte holds a code of eight parts of the inputs.
constexpr int64_t kProduct8Bytes = 64;   // filters of a block
constexpr int64_t kProduct8Triple = 12;  // a block has a multiple of 12 vectors, which are triples and quads
constexpr int64_t product8_filter(int64_t i) { return i / 4 % 2 * 16 + i / 8 * 4 + i % 4; }

struct Product8Row {
    const uint8_t *weights;  // (blocks, vectors, 64)
    int64_t blocks, vectors;
    const int8_t *x;  // (rows, 8, vectors)
    int64_t rows;
    int32_t *codes;  // (rows, blocks, 64), sums of codes times x are added
};

struct Product8Lookup {
    int64_t most;  // rows for which it pays
    void (*rows)(const Product8Row &row);
    // The epilogue of `count` filters of a row.
    void (*sums)(const int32_t *codes, int64_t count, int32_t x_sum, int32_t *y);
    void (*scaled)(const int32_t *codes, int64_t count, int32_t x_sum, const float *scale, float x_scale, float *y);
    // Half of a block, filters 0 to 31 or 32 to 63, in the order of tiles.
    void (*to_tile)(const uint8_t *block, int64_t vectors, int half, uint8_t *weights);
};

struct Product8Tables {
    struct Kind {
        int64_t bytes;  // of the indices of a filter in two steps
        // The indices of 32 filters in two steps of a tile.
        void (*arrange)(const uint8_t *first, const uint8_t *second, uint8_t *indices);
        void (*add)(const Product8Rows &rows);  // null: none
    };
    int64_t rows;  // at once
    Kind kinds[2];  // of binary and of ternary weights
};

struct Product8Kernels {
    void (*tile)(const Product8Tile &tile);
    void (*order)(const Product8Order &order);
    int64_t rows;                  // the most rows of a tile: 4 or more
    const Product8Lookup *lookup;  // for binary weights; null: none
    const Product8Tables *tables;  // null: none
    int64_t (*peak)(int64_t rounds);  // multiply-accumulates of the loop that speeds are compared with
};

// Filters in the order of the kernels. Constant once constructed.
struct Product8Filters {
    // Words (filters, ceil(depth / 64)); the plane of non-zeros comes after that of signs. scale: (filters, groups) or
    // null, of groups of `group` adjacent levels, the last of which may be shorter.
    Product8Filters(const Product8Kernels &kernels, const uint64_t *words, int64_t filters, int64_t depth, bool ternary, const float *scale,
                    int64_t group);

    // x (rows, depth). Writes int32 (rows, filters), or float32 that is scaled by x_scale (rows) too.
    void multiply(const int8_t *x, int64_t rows, int32_t *sums, float *scaled, const float *x_scale,
                  int threads) const;

    int64_t filters, depth, group, groups, steps;
    int bits;

   private:
    struct Free {
        void operator()(void *p) const;
    };
    int64_t group_inputs() const { return steps * kProduct8Quad * (8 / bits); }

    // The weights of a block of 32 filters in the order of tiles; `quads` is memory for them.
    const uint8_t *tile_weights(int64_t block, std::vector<uint8_t> &quads) const;
    void tabulate(const int8_t *x, int64_t rows, int32_t *sums, float *scaled, const float *x_scale, int threads) const;
    void look_up(const int8_t *x, int64_t rows, int32_t *sums, float *scaled, const float *x_scale, int threads) const;

    const Product8Kernels &kernels_;
    const bool by_bytes_;                       // whether weights are those of Product8Row
    std::unique_ptr<uint8_t[], Free> weights_;  // (blocks, groups, steps, 32, 4), or (blocks, vectors, 64)
    std::unique_ptr<float[], Free> scale_;      // (blocks, groups, 32)
};

extern const Product8Lookup product8_lookup_avx2, product8_lookup_avx512;
extern const Product8Tables product8_tables_avx2, product8_tables_avx512;

namespace {  // a copy for each file, compiled for its instruction set

// The epilogue in plain C++, of one filter.
inline void product8_put(const Product8Tile &tile, int64_t row, int64_t group, int64_t filter, int32_t codes) {
    const int32_t x_sum = tile.x_sums[row * tile.groups + group];
    const int32_t sum = tile.bits == 1 ? x_sum - 2 * codes : codes - x_sum;
    if (tile.sums != nullptr) {
        int32_t &y = tile.sums[row * tile.pitch_y + filter];
        y = group == 0 ? sum : y + sum;
        return;
    }
    float &y = tile.scaled[row * tile.pitch_y + filter];
    const float term = static_cast<float>(sum) * tile.scale[group * kProduct8Lanes + filter];
    y = group == 0 ? term : y + term;
    if (group == tile.groups - 1) y = y * tile.x_scale[row];
}

}  // namespace
}  // namespace hypersign
