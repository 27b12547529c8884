#include <algorithm>
#include <vector>

#include "parallel.hpp"
#include "training/training.hpp"

namespace hypersign {
namespace {

// Calls work(output pixel, its window's first pixel, height and width of the window in the image), for every window.
template <class Work>
void windows(const Pool &task, int threads, const Work &work) {
    parallel_for(task.images * task.out[0], threads, [&](int64_t first, int64_t last) {
        for (int64_t line = first; line < last; ++line) {
            const int64_t image = line / task.out[0], row = line % task.out[0] * task.size[0];
            for (int64_t column = 0; column < task.out[1]; ++column) {
                const int64_t left = column * task.size[1];
                work(line * task.out[1] + column, (image * task.height + row) * task.width + left,
                     std::min(task.size[0], task.height - row), std::min(task.size[1], task.width - left));
            }
        }
    });
}

template <class Number, class Unpool>
void unpool_windows(const Pool &task, const Number *g, const uint8_t *place, Number *out, int threads,
                    const Unpool &unpool) {
    if (task.out[0] * task.size[0] < task.height || task.out[1] * task.size[1] < task.width)
        std::fill(out, out + task.images * task.height * task.width * task.channels, Number{0});  // pixels in no window
    windows(task, threads, [&](int64_t from, int64_t pixel, int64_t height, int64_t width) {
        for (int64_t i = 0; i < height; ++i)
            for (int64_t j = 0; j < width; ++j)
                unpool(g + from * task.channels, place + from * task.channels,
                       static_cast<uint8_t>(i * width + j), out + (pixel + i * task.width + j) * task.channels);
    });
}

}  // namespace

void max_pool(const Pool &task, const float *x, float *y, uint8_t *place, int threads) {
    const TrainingKernels &kernels = *current_kernels().training;
    windows(task, threads, [&](int64_t out, int64_t pixel, int64_t height, int64_t width) {
        const float *pixels[256];
        int64_t count = 0;
        for (int64_t i = 0; i < height; ++i)
            for (int64_t j = 0; j < width; ++j) pixels[count++] = x + (pixel + i * task.width + j) * task.channels;
        kernels.pool(pixels, count, task.channels, y + out * task.channels, place + out * task.channels);
    });
}

void max_pool_gradient(const Pool &task, const float *g, const uint8_t *place, float *out, int threads) {
    const TrainingKernels &kernels = *current_kernels().training;
    const bool stream = streams(out, task.images * task.height * task.width, task.channels);
    unpool_windows(task, g, place, out, threads,
                   [&](const float *from, const uint8_t *places, uint8_t wanted, float *to) {
                       kernels.unpool(from, places, wanted, task.channels, stream, to);
                   });
}

void max_pool_gradient(const Pool &task, const int8_t *q, const uint8_t *place, int8_t *out, int threads) {
    const TrainingKernels &kernels = *current_kernels().training;
    unpool_windows(task, q, place, out, threads,
                   [&](const int8_t *from, const uint8_t *places, uint8_t wanted, int8_t *to) {
                       kernels.unpool_bytes(from, places, wanted, task.channels, to);
                   });
}

}  // namespace hypersign
