// Sums over rows of weights, in one pass: what moments, angles and group scales are made of.
//
// Per vector of 8: a load, |x|, six products, seven sums and a comparison: 15 operations that the L1 cache feeds, half
// a cycle a weight, where eight passes of a library over the same block take eight loads, five stores and 2 ns.
#pragma once
#include <cstdint>

#include "instruction_sets.hpp"

namespace hypersign {

constexpr int64_t kMomentsUnit = 32;  // weights that are summed in float32 before they meet others

// rows x d weights, d a multiple of 32.
struct MomentsTask {
    const float *x;
    int64_t rows, d;
    double *absolute;  // (rows, d / 32): sums of |x|, a unit each
    double *square;    // (rows): of x^2
    double *totals;    // (4): of x, x^3, |x|^3, x^4 over all; added to
    int64_t *zeros;    // how many are 0; added to
};

struct MomentsKernels {
    void (*sums)(const MomentsTask &task);
};


}  // namespace hypersign
