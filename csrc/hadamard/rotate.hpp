// Rounds of signs and transforms, row by row, so that a row stays in the first cache. hypersign.rotations has the
// formula, and NumPy's operations in the same order.
#pragma once
#include "hadamard/hadamard.hpp"

namespace hypersign {

struct Rotation {
    int64_t dimension, outputs;  // of a row before and after
    int64_t size, window;        // of the rotation, and of its transforms
    int64_t rounds;
    const float *signs;  // (rounds, size); (2 rounds, size) if the window is smaller than the size
};

void rotate(const Rotation &rotation, const float *x, float *to, int64_t rows);
void rotate(const Rotation &rotation, const double *x, double *to, int64_t rows);

}  // namespace hypersign
