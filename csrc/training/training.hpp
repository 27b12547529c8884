// Passes over activations in training: batch norm, activation functions of two slopes, max pool and packing of pixels
// whose channels lie side by side.
//
// Memory is the bottleneck: a number takes one or two operations. So each pass reads and writes as little as it can.
// Batch norm reads its inputs twice forward, and inputs and gradients twice backward. Two slopes with their shifts are
// one pass forward, and one backward for all five gradients. Max pool keeps one byte per output, the place of the
// maximum in its window, and writes its backward pass without clearing memory first. Adam reads and writes weights and
// moments once: clipping, update and check are one pass.
//
// Results of more than a megabyte are streamed past the caches: storing them there would read their memory first.
//
// Loops run over channels, and each channel's sums go row by row in runs of fixed size. So every instruction set and
// every number of threads gives the same bits.
#pragma once
#include <cstdint>

#include "instruction_sets.hpp"

namespace hypersign {

// A step of Adam or AdamW. With the gradient g clipped to +-clip, the moments m and v and a weight w:
//     g' = g + decay w      w' = w shrink
//     m' = m + first (g' - m)      v' = v keep + (second g') g'
//     w'' = w' - step m' / (sqrt(v') correction + epsilon), clipped to +-limit
struct Adam {
    float clip, decay, shrink, first, keep, second, step, correction, epsilon, limit;
};

// y = right max(0, u) + left min(0, u) + after,    u = x + before; one of each per channel
struct Slopes {
    int64_t rows, channels;
    const float *x, *before, *left, *right, *after;
};

// All arrays of numbers are (rows, channels), and statistics (channels).
struct TrainingKernels {
    // mean(c), rounded as it happens; rest(c) = sum over rows of x - mean; squares(c) = sum over rows of (x - mean)^2
    void (*moments)(const float *x, int64_t rows, int64_t channels, float *mean, float *rest, float *squares);
    // y = (x - mean) scale + shift; `stream`: past the caches
    void (*normalize)(const float *x, int64_t rows, int64_t channels, const float *mean, const float *scale,
                      const float *shift, bool stream, float *y);
    // plain(c) = sum over rows of g, times(c) = sum over rows of g (x - mean)
    void (*sums)(const float *g, const float *x, int64_t rows, int64_t channels, const float *mean, float *plain,
                 float *times);
    // out = (g - plain - (x - mean) times) scale
    void (*gradient)(const float *g, const float *x, int64_t rows, int64_t channels, const float *mean,
                     const float *scale, const float *plain, const float *times, bool stream, float *out);
    // y of `Slopes` for some of its rows
    void (*slopes)(const Slopes &task, const float *x, int64_t rows, bool stream, float *y);
    // The gradients of x, and, one after the other, the sums over rows of those of before, left, right and after.
    // At u = 0 the slope is `left`.
    void (*slopes_gradient)(const Slopes &task, const float *g, const float *x, int64_t rows, bool stream, float *to_x,
                            float *to_pieces);
    // y(c) = the maximum of `count` pixels, `place` the first that has it; a NaN is larger than all, as in torch
    void (*pool)(const float *const *pixels, int64_t count, int64_t channels, float *y, uint8_t *place);
    // out(c) = g where place is `wanted`, else 0
    void (*unpool)(const float *g, const uint8_t *place, uint8_t wanted, int64_t channels, bool stream, float *out);
    // The same for rounded gradients.
    void (*unpool_bytes)(const int8_t *q, const uint8_t *place, uint8_t wanted, int64_t channels, int8_t *out);
    // Bits of n numbers in ceil(n/64) words: minus, 1 where x < 0, and inside, 1 where |x| < clip. Other bits are 0.
    void (*pack)(const float *x, int64_t n, float clip, uint64_t *minus, uint64_t *inside);
    // y = x; `stream` as above.
    void (*to_floats)(const int32_t *x, int64_t n, bool stream, float *y);
    // Updates n weights; returns the sum of their squares, in which what is not finite shows.
    float (*adam)(const Adam &adam, const float *g, int64_t n, float *w, float *m, float *v);
    // The sum of the squares of n numbers.
    float (*squares)(const float *x, int64_t n);
};

// Whether to stream rows of such numbers: they are many, and each row starts at a vector's boundary.
inline bool streams(const float *out, int64_t rows, int64_t channels) {
    return channels % 16 == 0 && rows * channels >= (1 << 18) && reinterpret_cast<uintptr_t>(out) % 64 == 0;
}

// y = (x - mean) / sqrt(variance + epsilon) weight + bias; a null weight is 1, a null bias 0. The variance is that of
// the rows (divided by their number); `inverse` is 1 / sqrt(variance + epsilon).
struct BatchNorm {
    int64_t rows, channels;
    const float *x, *weight, *bias;
    double epsilon;
};
void batch_norm(const BatchNorm &task, float *y, float *mean, float *variance, float *inverse, int threads);

// The gradients of inputs, weight and bias, from that of the outputs; task.bias and task.epsilon are not read.
void batch_norm_gradient(const BatchNorm &task, const float *g, const float *mean, const float *inverse, float *to_x,
                         float *to_weight, float *to_bias, int threads);

// An activation function of two slopes, and its gradients; `to_pieces` is (4, channels), as in the kernel.
// task.after is not read for gradients.
void two_slopes(const Slopes &task, float *y, int threads);
void two_slopes_gradient(const Slopes &task, const float *g, float *to_x, float *to_pieces, int threads);

// Packs rows of n numbers, each into its own words.
void pack_clipped(const float *x, int64_t rows, int64_t n, float clip, uint64_t *minus, uint64_t *inside, int threads);

// Windows that neither overlap nor are padded; the last ones may reach past the edge.
struct Pool {
    int64_t images, height, width, channels, size[2], out[2];
};
void max_pool(const Pool &task, const float *x, float *y, uint8_t *place, int threads);
void max_pool_gradient(const Pool &task, const float *g, const uint8_t *place, float *out, int threads);
void max_pool_gradient(const Pool &task, const int8_t *q, const uint8_t *place, int8_t *out, int threads);

// The two last kernels on many numbers; both return the sum of squares.
double adam_update(const Adam &adam, const float *g, int64_t n, float *w, float *m, float *v, int threads);
double sum_of_squares(const float *x, int64_t n, int threads);

}  // namespace hypersign
