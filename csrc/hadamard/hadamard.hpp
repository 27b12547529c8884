// Fast Walsh-Hadamard transforms of rows, in natural order: n log2 n additions and subtractions.
//
// Stages go from neighbours to halves: stride 1, 2, 4, ..., n/2. Every kernel keeps that order, so that all of them
// round floating numbers alike, bit by bit. Integers wrap round, modulo 2^16 or 2^32.
#pragma once
#include <cstdint>

#include "instruction_sets.hpp"

namespace hypersign {

// rows x n numbers from x to y, n a power of two; y is x itself or does not overlap it. Floating numbers come out
// multiplied by scale; with a scale of 1 nothing is multiplied.
struct HadamardKernels {
    void (*float32)(const float *x, float *y, int64_t rows, int64_t n, float scale);
    void (*float64)(const double *x, double *y, int64_t rows, int64_t n, double scale);
    void (*int32)(const int32_t *x, int32_t *y, int64_t rows, int64_t n);
    void (*int16)(const int16_t *x, int16_t *y, int64_t rows, int64_t n);
};


}  // namespace hypersign
