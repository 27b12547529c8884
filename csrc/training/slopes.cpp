#include <vector>

#include "parallel.hpp"
#include "training/runs.hpp"
#include "training/training.hpp"

namespace hypersign {

void two_slopes(const Slopes &task, float *y, int threads) {
    const TrainingKernels &kernels = *current_kernels().training;
    const Runs runs(task.rows, task.channels);
    const bool stream = streams(y, task.rows, task.channels);
    parallel_for(runs.count, threads, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t at = i * runs.size * task.channels;
            kernels.slopes(task, task.x + at, runs.length(i), stream, y + at);
        }
    });
}

void two_slopes_gradient(const Slopes &task, const float *g, float *to_x, float *to_pieces, int threads) {
    const TrainingKernels &kernels = *current_kernels().training;
    const Runs runs(task.rows, task.channels);
    const int64_t sums = 4 * task.channels;
    std::vector<float> found(static_cast<size_t>(runs.count * sums));
    const bool stream = streams(to_x, task.rows, task.channels);
    parallel_for(runs.count, threads, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t at = i * runs.size * task.channels;
            kernels.slopes_gradient(task, g + at, task.x + at, runs.length(i), stream, to_x + at,
                                    found.data() + i * sums);
        }
    });
    std::vector<double> totals(static_cast<size_t>(sums), 0.0);
    for (int64_t i = 0; i < runs.count; ++i)
        for (int64_t k = 0; k < sums; ++k) totals[static_cast<size_t>(k)] += found[static_cast<size_t>(i * sums + k)];
    for (int64_t k = 0; k < sums; ++k) to_pieces[k] = static_cast<float>(totals[static_cast<size_t>(k)]);
}

}  // namespace hypersign
