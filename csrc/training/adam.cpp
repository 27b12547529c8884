#include <algorithm>
#include <numeric>
#include <vector>

#include "integers.hpp"
#include "parallel.hpp"
#include "training/training.hpp"

namespace hypersign {
namespace {

constexpr int64_t kPart = 1 << 14;  // numbers; sums do not depend on threads

template <class Sum>
double sum_of_parts(int64_t n, int threads, const Sum &sum) {
    std::vector<float> sums(static_cast<size_t>(ceil_div(n, kPart)));
    parallel_for(ceil_div(n, kPart), threads, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i)
            sums[static_cast<size_t>(i)] = sum(i * kPart, std::min(kPart, n - i * kPart));
    });
    return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace

double adam_update(const Adam &adam, const float *g, int64_t n, float *w, float *m, float *v, int threads) {
    const TrainingKernels &kernels = *current_kernels().training;
    return sum_of_parts(n, threads, [&](int64_t first, int64_t count) {
        return kernels.adam(adam, g + first, count, w + first, m + first, v + first);
    });
}

double sum_of_squares(const float *x, int64_t n, int threads) {
    const TrainingKernels &kernels = *current_kernels().training;
    return sum_of_parts(n, threads, [&](int64_t first, int64_t count) { return kernels.squares(x + first, count); });
}

}  // namespace hypersign
