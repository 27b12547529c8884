#include "integers.hpp"
#include "parallel.hpp"
#include "training/training.hpp"

namespace hypersign {

void pack_clipped(const float *x, int64_t rows, int64_t n, float clip, uint64_t *minus, uint64_t *inside, int threads) {
    const TrainingKernels &kernels = *current_kernels().training;
    const int64_t words = ceil_div(n, 64), together = ceil_div(1 << 14, n);
    parallel_for(ceil_div(rows, together), threads, [&](int64_t first, int64_t last) {
        for (int64_t row = first * together; row < rows && row < last * together; ++row)
            kernels.pack(x + row * n, n, clip, minus + row * words, inside + row * words);
    });
}

}  // namespace hypersign
