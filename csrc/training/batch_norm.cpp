#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.hpp"
#include "training/runs.hpp"
#include "training/training.hpp"

namespace hypersign {
void batch_norm(const BatchNorm &task, float *y, float *mean, float *variance, float *inverse, int threads) {
    const TrainingKernels &kernels = *current_kernels().training;
    const int64_t channels = task.channels;
    const Runs runs(task.rows, channels);
    std::vector<float> found(static_cast<size_t>(3 * runs.count * channels));
    parallel_for(runs.count, threads, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            float *mean_of = found.data() + 3 * i * channels;
            kernels.moments(task.x + i * runs.size * channels, runs.length(i), channels, mean_of, mean_of + channels,
                            mean_of + 2 * channels);
        }
    });
    // Means and squares of all rows before a run, and of the run, give those of both (Chan et al. 1983).
    std::vector<double> means(static_cast<size_t>(channels), 0.0), squares(static_cast<size_t>(channels), 0.0);
    for (int64_t i = 0; i < runs.count; ++i) {
        const auto before = static_cast<double>(i * runs.size), more = static_cast<double>(runs.length(i));
        const float *run_mean = found.data() + 3 * i * channels, *rest = run_mean + channels;
        const float *run_squares = rest + channels;
        for (int64_t c = 0; c < channels; ++c) {
            const double left = rest[c], step = run_mean[c] + left / more - means[c];
            means[c] += step * (more / (before + more));
            squares[c] += run_squares[c] - left * left / more + step * step * (before * more / (before + more));
        }
    }
    std::vector<float> scale(static_cast<size_t>(channels)), shift(static_cast<size_t>(channels));
    for (int64_t c = 0; c < channels; ++c) {
        const double spread = std::max(squares[c], 0.0) / static_cast<double>(task.rows);
        mean[c] = static_cast<float>(means[c]);
        variance[c] = static_cast<float>(spread);
        inverse[c] = static_cast<float>(1 / std::sqrt(spread + task.epsilon));
        scale[c] = task.weight ? task.weight[c] * inverse[c] : inverse[c];
        shift[c] = task.bias ? task.bias[c] : 0.0f;
    }
    const bool stream = streams(y, task.rows, channels);
    parallel_for(runs.count, threads, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t at = i * runs.size * channels;
            kernels.normalize(task.x + at, runs.length(i), channels, mean, scale.data(), shift.data(), stream,
                              y + at);
        }
    });
}

void batch_norm_gradient(const BatchNorm &task, const float *g, const float *mean, const float *inverse, float *to_x,
                         float *to_weight, float *to_bias, int threads) {
    const TrainingKernels &kernels = *current_kernels().training;
    const int64_t channels = task.channels;
    const Runs runs(task.rows, channels);
    std::vector<float> found(static_cast<size_t>(2 * runs.count * channels));
    parallel_for(runs.count, threads, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t at = i * runs.size * channels;
            kernels.sums(g + at, task.x + at, runs.length(i), channels, mean, &found[2 * i * channels],
                         &found[(2 * i + 1) * channels]);
        }
    });
    std::vector<double> plain(static_cast<size_t>(channels), 0.0), times(static_cast<size_t>(channels), 0.0);
    for (int64_t i = 0; i < runs.count; ++i)
        for (int64_t c = 0; c < channels; ++c) {
            plain[c] += found[2 * i * channels + c];
            times[c] += found[(2 * i + 1) * channels + c];
        }
    std::vector<float> scale(static_cast<size_t>(channels)), a(static_cast<size_t>(channels)),
        b(static_cast<size_t>(channels));
    const auto rows = static_cast<double>(task.rows);
    for (int64_t c = 0; c < channels; ++c) {
        to_weight[c] = static_cast<float>(times[c] * inverse[c]);
        to_bias[c] = static_cast<float>(plain[c]);
        scale[c] = task.weight ? task.weight[c] * inverse[c] : inverse[c];
        a[c] = static_cast<float>(plain[c] / rows);
        b[c] = static_cast<float>(times[c] * inverse[c] * inverse[c] / rows);
    }
    const bool stream = streams(to_x, task.rows, channels);
    parallel_for(runs.count, threads, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t at = i * runs.size * channels;
            kernels.gradient(g + at, task.x + at, runs.length(i), channels, mean, scale.data(), a.data(), b.data(),
                             stream, to_x + at);
        }
    });
}

}  // namespace hypersign
