// Sums over rows of weights, in one pass, from which moments, angles and group scales follow.
//
// A vector of 8 takes a load, |x|, six products, seven sums and a comparison: 15 operations on the L1 cache, half a
// cycle per weight. Eight passes of a library over the same block take eight loads, five stores and 2 ns per weight.
#pragma once
#include <cstdint>

#include "instruction_sets.hpp"

namespace hypersign {

constexpr int64_t kMomentsUnit = 32;  // weights that are summed in float32 first

// rows x d weights, d a multiple of 32.
struct MomentsTask {
    const float *x;
    int64_t rows, d;
    double *absolute;  // (rows, d / 32): sums of |x|, one per unit
    double *square;    // (rows): of x^2
    double *totals;    // (4): of x, x^3, |x|^3, x^4 over all; added to
    int64_t *zeros;    // how many are 0; added to
};

struct MomentsKernels {
    void (*sums)(const MomentsTask &task);
};


}  // namespace hypersign
