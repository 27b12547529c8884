// The first layer: 8-bit images with binary or ternary filters, summed in 32-bit integers.
//
//     sum = start + sum over taps of x w
//
// Weights hold the multiplier of the pixels already; `start` holds what the shift of the pixels adds, which depends
// on the taps that lie inside the image. The pixels under a filter are gathered into a row of bytes first (a patch),
// a few thousand bytes at a time; taps outside are 0.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "instruction_sets.hpp"
#include "integers.hpp"

namespace hypersign {

constexpr int64_t kImageLanes = 16;  // filters side by side
constexpr int64_t kImageMaxWeight = 64;  // in magnitude
constexpr int64_t kImageTaps = 4;    // bytes of a filter side by side: those that one instruction multiplies

// A row of patches with all filters. Filters come in blocks of 16, the last one filled up with zeros.
struct ImageRow {
    const uint8_t *patches;       // (pixels, 4 * fours)
    int64_t pixels, fours;        // fours: taps / 4, rounded up
    const int8_t *weights;        // (blocks, fours, 16, 4)
    int64_t largest;              // of their magnitudes, at most 64
    const int32_t *const *start;  // for each pixel, (16 * blocks)
    int64_t filters;              // blocks: filters / 16, rounded up

    // Either sums, (pixels, filters), or levels: words (pixels, ceil(filters/64)), of -1 where sum < low; ternary too
    // 0 where low <= sum < high; negated by flip. low, high: (16 * blocks).
    int32_t *sums;
    const int32_t *low, *high;
    const uint64_t *flip;
    uint64_t *sign, *nonzero;
};

// Levels by tables: what three bytes of a line add up to with each choice of signs, 8 sums of 16 bits, of which a
// filter picks one.
constexpr int64_t kImageTable = 16;          // bytes
constexpr int64_t kImageTableFilters = 32;  // of a block

// The lane of filter i of a block, in two registers, in the order that packing them to bytes undoes.
constexpr int64_t image_table_lane(int64_t i) { return i / 8 % 2 * 16 + i / 16 * 8 + i % 8; }

// A row of pixels. Buffers are those of `ImageRow`.
struct ImageLookup {
    const uint8_t *const *tables;  // of each group of taps, for the first pixel
    int64_t step;                  // bytes from there to the next pixel's
    int64_t groups, pixels, filters;
    const uint8_t *picks;            // (blocks, groups, 32, 2): the bytes of the table's sum
    const int16_t *const *bounds;    // for each pixel, (1 or 2, 32 * blocks): -1 up to the first, +1 above the second
    const uint64_t *flip;
    uint64_t *sign, *nonzero;
};

struct ImageTables {
    // Tables of `count` threes of bytes, `step` apart, of which only the first `taps` are added.
    void (*tabulate)(const uint8_t *line, int64_t count, int64_t step, int taps, uint8_t *tables);
    void (*row)(const ImageLookup &row);
};

struct ImageKernels {
    void (*row)(const ImageRow &row);
    const ImageTables *tables = nullptr;  // for levels whose sums fit in 16 bits
};

extern const ImageTables image_tables_avx2;


// A convolution; pairs are (vertical, horizontal).
struct ImageTask {
    const uint8_t *x;
    int64_t images, height, width, channels;
    const int8_t *weights;  // as the kernels want them
    const int32_t *taps;    // (kernel height, kernel width, 16 * blocks): weights summed over channels, times the shift
    int64_t filters, size[2], out[2];
    int64_t stride[2], padding[2], dilation[2];
    int32_t *sums;  // null where levels are wanted
    const int32_t *low, *high;
    const uint64_t *flip;
    uint64_t *sign, *nonzero;
};

// Images (images, channels, pixels) as (images, pixels, channels).
void channels_last(const uint8_t *x, int64_t images, int64_t channels, int64_t pixels, uint8_t *y);

// The convolution, made ready: what is called with a number of threads.
std::function<void(int)> image_conv2d(const ImageTask &task);

namespace {  // a copy for each file, compiled for its instruction set

// The epilogue in plain C++, of 16 filters of a pixel: writes sums or levels. Bits of block b are a quarter of a
// word.
inline void image_epilogue(const ImageRow &row, int64_t pixel, int64_t block, const int32_t *sums) {
    const int64_t first = block * kImageLanes;
    const int64_t count = row.filters - first < kImageLanes ? row.filters - first : kImageLanes;
    if (row.sums != nullptr) {
        for (int64_t i = 0; i < count; ++i) row.sums[pixel * row.filters + first + i] = sums[i];
        return;
    }
    uint64_t minus = 0, plus = 0;
    for (int64_t i = 0; i < count; ++i) {
        minus |= static_cast<uint64_t>(sums[i] < row.low[first + i]) << i;
        if (row.high != nullptr) plus |= static_cast<uint64_t>(sums[i] >= row.high[first + i]) << i;
    }
    const int64_t word = pixel * ceil_div(row.filters, 64) + first / 64, at = first % 64;
    const uint64_t negated = row.flip[first / 64] >> at & 0xFFFF;
    if (at == 0) row.sign[word] = 0;
    if (row.high == nullptr) {
        row.sign[word] |= (minus ^ negated) << at;
        return;
    }
    if (at == 0) row.nonzero[word] = 0;
    row.sign[word] |= ((minus ^ negated) & (minus | plus)) << at;
    row.nonzero[word] |= (minus | plus) << at;
}

}  // namespace
}  // namespace hypersign
