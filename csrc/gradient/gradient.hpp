// Backward products of layers whose inputs and filters are levels, by lookup tables: no number is multiplied.
//
// The two products of a backward pass each multiply a gradient by levels of one bit:
//     to the inputs    dX(n, y, x, c) = sum over taps and filters f of  dY(n, y', x', f) filter(f, tap, c)
//     to the filters   dW(f, tap, c)  = sum over images and pixels of   dY(n, y', x', f) x(n, y, x, c)
// dY comes as integers of 6 bits, -31..31, with a scale. Four of them, q0 to q3, make a table of 8 bytes, the sums q0
// +- q1 +- q2 +- q3 plus 124. The sum under any four signs is an entry or its negative: three levels are the index,
// the fourth is the sign and selects the mirrored entry. Two such tables fill the 16 bytes that a byte shuffle looks
// up: neighbouring bytes of the register are one channel's two sums, and a product of neighbouring bytes with their
// signs, added up (pmaddubsw), is the sum of eight products in 16 bits. 124 times the sum of the signs is taken off
// at the end; it is the same for every row of tables. (avx512.cpp looks up two tables at once.)
//
// The bottleneck: 128 multiply-accumulates, of 16 channels by 8 numbers, take a shuffle, a multiply-add and an
// addition. Zen 3 does four such instructions per cycle, among them two shuffles and two multiplications: 170
// products per cycle, where float32 does 16. Four rows of tables by 32 channels are 24 such instructions and load 8
// registers: fewer than two loads per cycle. Sums are added to int32 every 64 tables, before 16 bits overflow.
// (Tables of sixteen entries without signs need no multiplication, but their sums need widening: four instructions.)
#pragma once
#include <cstdint>

#include "instruction_sets.hpp"

namespace hypersign {

constexpr int64_t kNumbers = 8;          // of a table
constexpr int64_t kTable = 16;           // bytes of it
constexpr int64_t kTableBias = 4 * 31;  // what makes its entries non-negative
constexpr int64_t kFlush = 64;           // tables whose sums fit in 16 bits: 64 * 2 * 248 < 2^15
constexpr int64_t kBlock = 32;          // channels looked up together
constexpr int64_t kIndices = 4 * kBlock;  // bytes of their indices into a table and of their signs
constexpr int64_t kBuild = 32;           // tables built together
constexpr int64_t kRows = 8;             // rows of tables looked up together

// A run of tables, one after the other from `offset` on, and their channels' indices.
struct Segment {
    int64_t offset;
    const uint8_t *indices;
    int64_t tables;  // an even number, at most kFlush
};

struct GradientKernels {
    // q[j][t] = from[8 t + j], of 8 kBuild numbers.
    void (*split)(const int8_t *from, int8_t (*q)[kBuild]);
    // kBuild tables: table t of the eight numbers q[t], q[pitch + t], ..., q[7 pitch + t]; to out + t * stride.
    void (*build)(const int8_t *q, int64_t pitch, uint8_t *out, int64_t stride);
    // The indices and signs of 32 channels for two tables, 2 kIndices bytes in the order that `look` wants. Bit c of
    // words[4 j + k] is 1 where number j of the k-th four counts negatively. The signs are added to `signs`.
    void (*spread)(const uint32_t *words, uint8_t *out, int32_t *signs);
    // sums[r][c] += sum over segments and their tables of channel c's two entries, each with its sign, for `rows` rows
    // of tables, 1 to kRows.
    void (*look)(const uint8_t *const *tables, int64_t rows, const Segment *segments, int64_t count,
                 int32_t (*sums)[kBlock]);
    // sums(i) += q(i)
    void (*add)(const int8_t *q, int64_t n, int32_t *sums);
    // out(c) = (sums(c) - bias(c)) scale where bit c of `inside` is 1, else 0; `stream`: past the caches, for a multiple
    // of 16 channels and an output at a vector's boundary.
    void (*write)(const int32_t *sums, const int32_t *bias, float scale, uint32_t inside, int64_t channels, bool stream,
                  float *out);
    // The largest magnitude of n numbers, as the bits of a float, in which NaN is larger than all; also max'ed into
    // columns[i % width].
    int32_t (*largest)(const float *x, int64_t n, int64_t width, int32_t *columns);
    // Rounds n numbers at random to whole multiples of two scales: floor(x a + u) and floor(x b[i % width] + u'),
    // clipped to -31..31, with u and u' of 16 bits each from the eight generators in `state`.
    void (*round)(const float *x, int64_t n, int64_t width, float a, const float *b, uint32_t *state, int8_t *by_image,
                  int8_t *by_filter);
};

struct GradientShape {
    int64_t images, height, width, channels;  // of the layer's inputs
    int64_t rows, columns, filters;           // of its outputs
    int64_t kernel[2], stride[2], padding[2], dilation[2];
    int64_t planes;  // 1: binary levels, 2: ternary ones
};

// x: (images, pixels, filters) -> integers by_image with one scale per image, by_filter with one scale per filter.
void round_gradients(const float *x, int64_t images, int64_t pixels, int64_t filters, uint64_t seed, int8_t *by_image,
                     float *image_scales, int8_t *by_filter, float *filter_scales, int threads);

// q: (images, rows, columns, filters); words: (planes, filters, ceil(d / 64)) in (kernel row, kernel column, channel)
// order; out: (images, height, width, channels). The gradient is 0 where the bit of `inside`, packed as inputs are, is 0;
// null: nowhere.
void input_gradient(const GradientShape &shape, const int8_t *q, const float *scales, const uint64_t *words,
                    const uint64_t *inside, float *out, int threads);

// x: (planes, images, height, width, ceil(channels / 64)); out: (filters, kernel height, kernel width, channels).
// `inside` in the same way, packed as filters are.
void weight_gradient(const GradientShape &shape, const int8_t *q, const float *scales, const uint64_t *x,
                     int64_t pad_value, const uint64_t *inside, float *out, int threads);

}  // namespace hypersign
