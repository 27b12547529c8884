// Rows of independent standard normals, and sums over them, without an array of them.
//
// Box and Muller 1958, sixteen numbers at a time: in each of eight lanes two words u, v give a radius sqrt(-2 ln U)
// and a direction on the circle, and those give two numbers. Words come from SFC32 (Doty-Humphrey 2010): each row has
// eight generators, one per lane, which start from splitmix64 (Steele, Lea & Flood 2014) of a key, the row's number
// and the lane's. So a row depends on key and number alone. All arithmetic is float32, in one order and without fused
// operations: every back end, NumPy too, gives the same bits.
//
// The bottleneck with AVX2: sixteen normals take 70 operations, 22 of them for the two words. A Zen 3 core does 2.4
// per cycle, because most wait for the one before. Polynomials are therefore in the order that waits least, and each
// step computes the points of the next. That makes 1.9 cycles per normal, including products with two rows. Sums of
// |x| and x^2 alone need neither axes nor signs: 56 operations, 1.6 cycles per normal. A threshold takes 4 more for
// eight numbers.
#pragma once
#include <cstdint>

#include "instruction_sets.hpp"

namespace hypersign {

constexpr int64_t kGaussianStep = 16;  // numbers drawn together

// Rows first, first + 1, ...; a row is drawn in whole steps, of which the first d numbers count.
struct GaussianTask {
    uint64_t key, first;
    int64_t d;
    const float *scale;       // (d, and zeros to a whole step) factors of the components, or null
    const float *thresholds;  // (counts), each at least 0
    int64_t counts;
    double *absolute;  // (rows) sum of |x|; not written with products
    double *square;    // (rows) sum of x^2
    double *product, *product_two_before;  // (rows) dot product with the row before, and with the one before that; or null
    double *above;     // (rows, counts) sum of |x| where it exceeds the threshold
    double *number;    // (rows, counts) how many do
};

struct GaussianKernels {
    // One row of the task, into `padded` floats, a multiple of 16; those from d on are 0.
    void (*row)(const GaussianTask &task, uint64_t number, float *x, int64_t padded);
    // The sums of row i; its components may remain in x. With products they do, `last` is the row before, and x holds
    // the row before that.
    void (*sums)(const GaussianTask &task, int64_t i, float *x, const float *last, int64_t padded);
};


}  // namespace hypersign
