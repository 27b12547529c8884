#include <algorithm>
#include <vector>

#include "elementwise/program.hpp"
#include "integers.hpp"
#include "parallel.hpp"

namespace hypersign {

std::function<void(int)> real_pool(const RealPoolTask &task) {
    return [task](int threads) {
        const ElementwiseKernels &kernels = *current_kernels().elementwise;
        const int64_t rows = task.images * task.out[0];
        parallel_for(rows, threads, [&](int64_t begin, int64_t end) {
            std::vector<const float *> window;
            for (int64_t row = begin; row < end; ++row) {
                const int64_t image = row / task.out[0], top = row % task.out[0] * task.stride[0] - task.padding[0];
                const int64_t up = std::max<int64_t>(top, 0), down = std::min(top + task.size[0], task.height);
                for (int64_t column = 0; column < task.out[1]; ++column) {
                    const int64_t left = column * task.stride[1] - task.padding[1];
                    const int64_t first = std::max<int64_t>(left, 0), last = std::min(left + task.size[1], task.width);
                    window.clear();
                    for (int64_t i = up; i < down; ++i)
                        for (int64_t j = first; j < last; ++j)
                            window.push_back(task.x + ((image * task.height + i) * task.width + j) * task.channels);
                    float *y = task.y + (row * task.out[1] + column) * task.channels;
                    const int64_t count = static_cast<int64_t>(window.size());
                    if (!task.divisors)
                        kernels.max(window.data(), count, y, task.channels);
                    else
                        kernels.mean(window.data(), count,
                                     task.divisors[row % task.out[0] * task.out[1] + column], y, task.channels);
                }
            }
        });
    };
}

}  // namespace hypersign
