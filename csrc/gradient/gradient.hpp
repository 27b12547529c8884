// Backward products of layers whose inputs and filters are levels, by table look-up: nothing is multiplied.
//
// The two products of a backward pass each multiply a gradient by levels of one bit:
//     to the inputs    dX(n, y, x, c) = sum over taps and filters f of  dY(n, y', x', f) filter(f, tap, c)
//     to the filters   dW(f, tap, c)  = sum over images and pixels of   dY(n, y', x', f) x(n, y, x, c)
// dY comes as integers of 6 bits, -31..31, with a scale. Four of them make a table of 16 bytes, their sum under each
// choice of four signs, plus 124; four levels make the index into it. One byte shuffle looks up 32 sums of four: 128
// multiply-accumulates. Channels lie along the register, so that all its bytes read one table.
//
// What bounds it: sums have 8 bits and must be added in 16. A register of bytes is also one of 16-bit words
// (byte + 256 next byte): adding those words, modulo 2^16, and their upper bytes apart, gives both sums at the end:
// shuffle, add, shift, add for 128 products, up to 257 of them. Zen 3 has two ports for shuffles and shifts and two more
// for additions: 128 products a cycle, where float32 makes 16. Loads stay below: two tables and two registers of
// indices for four shuffles. Sums are flushed into int32 every 256 tables.
#pragma once
#include <cstdint>

#include "backend.hpp"

namespace hypersign {

constexpr int64_t TABLE = 16;            // bytes of a table
constexpr int64_t TABLE_BIAS = 4 * 31;   // what makes its sums non-negative
constexpr int64_t FLUSH = 256;           // tables whose sums fit in 16 bits
constexpr int64_t BLOCK = 64;            // channels looked up together
constexpr int64_t BUILD = 32;            // tables built together

// A run of tables, one after the other from `offset` on, and the indices into them, BLOCK bytes a table.
struct Segment {
    int64_t offset;
    const uint8_t *indices;
    int64_t tables;  // at most FLUSH
};

struct GradientKernels {
    // four[j][t] = from[4 t + j], of 4 BUILD numbers.
    void (*split)(const int8_t *from, int8_t (*four)[BUILD]);
    // BUILD tables: table t of the four numbers q[0][t], ..., q[3][t]; to out + t * stride.
    void (*build)(const int8_t (*q)[BUILD], uint8_t *out, int64_t stride);
    // The indices of 64 channels: bit j of byte c is bit c of words[j].
    void (*spread)(const uint64_t *words, uint8_t *out);
    // sums[r][c] = sum over segments and their tables of the entry that channel c's index names, for `rows` rows of
    // tables, 1 or 2; of the first 32 channels where `channels` are no more. At least one segment.
    void (*look)(const uint8_t *const *tables, int64_t rows, const Segment *segments, int64_t count, int64_t channels,
                 int32_t (*sums)[BLOCK]);
    // The largest magnitude of n numbers, as the bits of a float, in which NaN is larger than all; also max'ed into
    // columns[i % width].
    int32_t (*largest)(const float *x, int64_t n, int64_t width, int32_t *columns);
    // Rounds n numbers at random to whole multiples of two scales: floor(x a + u) and floor(x b[i % width] + u'),
    // clipped to -31..31, with u and u' of 16 bits each from the eight generators in `state`.
    void (*round)(const float *x, int64_t n, int64_t width, float a, const float *b, uint32_t *state, int8_t *by_image,
                  int8_t *by_filter);
};

extern const GradientKernels gradient_portable, gradient_avx2;
const GradientKernels &gradient_kernels(Backend backend);

struct GradientShape {
    int64_t images, height, width, channels;  // of the layer's inputs
    int64_t rows, columns, filters;           // of its outputs
    int64_t kernel[2], stride[2], padding[2], dilation[2];
    int64_t planes;  // 1: binary levels, 2: ternary ones
};

// x: (images, pixels, filters) -> integers by_image with a scale an image, by_filter with a scale a filter.
void round_gradients(const float *x, int64_t images, int64_t pixels, int64_t filters, uint64_t seed, int8_t *by_image,
                     float *image_scales, int8_t *by_filter, float *filter_scales, int threads);

// q: (images, rows, columns, filters); words: (planes, filters, ceil(d / 64)) in (kernel row, kernel column, channel)
// order; out: (images, height, width, channels).
void input_gradient(const GradientShape &shape, const int8_t *q, const float *scales, const uint64_t *words, float *out,
                    int threads);

// x: (planes, images, height, width, ceil(channels / 64)); out: (filters, kernel height, kernel width, channels).
void weight_gradient(const GradientShape &shape, const int8_t *q, const float *scales, const uint64_t *x,
                     int64_t pad_value, float *out, int threads);

}  // namespace hypersign
