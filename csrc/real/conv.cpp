#include <algorithm>
#include <vector>

#include "integers.hpp"
#include "parallel.hpp"
#include "real/real.hpp"

namespace hypersign {
namespace {

constexpr int64_t kBytes = 1 << 17;  // of patches made at once: they stay in the second cache

}  // namespace

void real_conv2d(const RealTask &task) {
    const RealKernels &kernels = *current_kernels().real;
    const int64_t share = task.filters / task.groups, channels = task.channels / task.groups;
    const int64_t blocks = ceil_div(share, kRealLanes);  // of a group
    const int64_t taps = task.size[0] * task.size[1], depth = taps * channels;

    // (groups, blocks, depth, 16), the last block of a group filled up with zeros
    std::vector<double> weights(static_cast<size_t>(task.groups * blocks * depth * kRealLanes));
    std::vector<double> bias(static_cast<size_t>(task.groups * blocks * kRealLanes));
    double *to = weights.data();
    for (int64_t block = 0; block < task.groups * blocks; ++block) {
        const int64_t filter = block / blocks * share + block % blocks * kRealLanes;
        const int64_t count = std::min(kRealLanes, share - block % blocks * kRealLanes);
        std::copy_n(task.bias + filter, count, bias.data() + block * kRealLanes);
        for (int64_t k = 0; k < depth; ++k, to += kRealLanes)
            for (int64_t i = 0; i < count; ++i) to[i] = task.weight[(filter + i) * depth + k];
    }

    const int64_t pixels = task.images * task.out[0] * task.out[1];
    const int64_t pitch = task.groups * depth;  // a patch: (groups, taps, channels of a group)
    const int64_t at_once = std::clamp<int64_t>(kBytes / (pitch * 8), 8, 64);
    parallel_for(ceil_div(pixels, at_once), task.threads, [&](int64_t first_tile, int64_t last_tile) {
        std::vector<double> patches(static_cast<size_t>(at_once * pitch));
        for (int64_t tile = first_tile; tile < last_tile; ++tile) {
            const int64_t first = tile * at_once, count = std::min(at_once, pixels - first);
            for (int64_t p = 0; p < count; ++p) {
                const int64_t place = (first + p) % (task.out[0] * task.out[1]);
                const int64_t image = (first + p) / (task.out[0] * task.out[1]);
                const int64_t top = place / task.out[1] * task.stride[0] - task.padding[0];
                const int64_t left = place % task.out[1] * task.stride[1] - task.padding[1];
                for (int64_t tap = 0; tap < taps; ++tap) {
                    const int64_t row = top + tap / task.size[1] * task.dilation[0];
                    const int64_t column = left + tap % task.size[1] * task.dilation[1];
                    const bool inside = row >= 0 && row < task.height && column >= 0 && column < task.width;
                    const float *from =
                        inside ? task.x + ((image * task.height + row) * task.width + column) * task.channels : nullptr;
                    for (int64_t group = 0; group < task.groups; ++group) {
                        double *to = patches.data() + p * pitch + group * depth + tap * channels;
                        if (inside)
                            std::copy_n(from + group * channels, channels, to);
                        else
                            std::fill_n(to, channels, 0.0);
                    }
                }
            }
            for (int64_t block = 0; block < task.groups * blocks; ++block) {
                const int64_t group = block / blocks, filter = block % blocks * kRealLanes;
                kernels.tile({patches.data() + group * depth, count, depth, pitch,
                              weights.data() + block * depth * kRealLanes, bias.data() + block * kRealLanes,
                              task.y + first * task.filters + group * share + filter,
                              std::min(kRealLanes, share - filter), task.filters});
            }
        }
    });
}

}  // namespace hypersign
