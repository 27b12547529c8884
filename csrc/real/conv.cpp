#include <algorithm>
#include <memory>
#include <vector>

#include "integers.hpp"
#include "parallel.hpp"
#include "real/real.hpp"

namespace hypersign {
namespace {

constexpr int64_t kBytes = 1 << 17;  // of patches made at once: they stay in the second cache
constexpr int64_t kWide = 16;         // pixels of a row that are worth reading the weights for

// A convolution made ready: its filters as the kernels read them.
struct RealConvolution {
    RealTask task;
    int64_t share, channels;  // filters and channels of a group
    int64_t blocks, taps, depth, pitch;
    // (groups, blocks, depth, 16), the last block of a group filled up with zeros
    std::vector<double> weights, bias;

    explicit RealConvolution(const RealTask &given)
        : task(given),
          share(task.filters / task.groups),
          channels(task.channels / task.groups),
          blocks(ceil_div(share, kRealLanes)),
          taps(task.size[0] * task.size[1]),
          depth(taps * channels),
          pitch(task.groups * depth),
          weights(static_cast<size_t>(task.groups * blocks * depth * kRealLanes)),
          bias(static_cast<size_t>(task.groups * blocks * kRealLanes)) {
        double *to = weights.data();
        for (int64_t block = 0; block < task.groups * blocks; ++block) {
            const int64_t filter = block / blocks * share + block % blocks * kRealLanes;
            const int64_t count = std::min(kRealLanes, share - block % blocks * kRealLanes);
            std::copy_n(task.bias + filter, count, bias.data() + block * kRealLanes);
            for (int64_t k = 0; k < depth; ++k, to += kRealLanes)
                for (int64_t i = 0; i < count; ++i) to[i] = task.weight[(filter + i) * depth + k];
        }
    }

    // The numbers under the filter at an output pixel: (groups, taps, channels of a group).
    void make_patch(int64_t pixel, double *patch) const {
        const int64_t place = pixel % (task.out[0] * task.out[1]), image = pixel / (task.out[0] * task.out[1]);
        const int64_t top = place / task.out[1] * task.stride[0] - task.padding[0];
        const int64_t left = place % task.out[1] * task.stride[1] - task.padding[1];
        // Neighbouring pixels of one group lie side by side, in the patch as in the image.
        const bool side_by_side = task.groups == 1 && task.dilation[1] == 1;
        const int64_t first = side_by_side ? std::clamp<int64_t>(-left, 0, task.size[1]) : 0;
        const int64_t last = side_by_side ? std::clamp<int64_t>(task.width - left, first, task.size[1]) : 0;
        for (int64_t i = 0; i < task.size[0]; ++i) {
            const int64_t row = top + i * task.dilation[0];
            const bool on = row >= 0 && row < task.height;
            const float *line = on ? task.x + (image * task.height + row) * task.width * task.channels : nullptr;
            if (side_by_side) {
                double *to = patch + i * task.size[1] * channels;
                if (on && first == 0 && last == task.size[1]) {
                    const float *from = line + left * channels;
                    for (int64_t k = 0; k < task.size[1] * channels; ++k) to[k] = from[k];
                    continue;
                }
                const int64_t begin = on ? first * channels : 0, end = on ? last * channels : 0;
                std::fill_n(to, begin, 0.0);
                if (on) std::copy_n(line + (left + first) * channels, end - begin, to + begin);
                std::fill(to + end, to + task.size[1] * channels, 0.0);
                continue;
            }
            for (int64_t j = 0; j < task.size[1]; ++j) {
                const int64_t column = left + j * task.dilation[1];
                const bool inside = on && column >= 0 && column < task.width;
                for (int64_t group = 0; group < task.groups; ++group) {
                    double *to = patch + group * depth + (i * task.size[1] + j) * channels;
                    if (inside)
                        std::copy_n(line + column * task.channels + group * channels, channels, to);
                    else
                        std::fill_n(to, channels, 0.0);
                }
            }
        }
    }

    // Output rows whose input, in float64 and padded, stays in the second cache. The kernels then read patches from the
    // image: pixels side by side share most of theirs. 0 where patches must be copied.
    int64_t band() const {
        if (task.groups != 1 || task.dilation[1] != 1 || taps == 1 || task.out[1] < kWide) return 0;
        const int64_t left = kBytes / (row_size() * 8) - ((task.size[0] - 1) * task.dilation[0] + 1);
        return left < 0 ? 0 : std::min(task.out[0], left / task.stride[0] + 1);
    }

    // Numbers under an output row, padding among them.
    int64_t row_size() const { return ((task.out[1] - 1) * task.stride[1] + task.size[1]) * channels; }

    // Copies `count` input rows from `first` on; those outside the image are 0.
    void copy_rows(int64_t image, int64_t first, int64_t count, double *to) const {
        const int64_t size = row_size(), before = std::min(task.padding[1] * channels, size);
        const int64_t inside = std::min(task.width * channels, size - before);
        for (int64_t row = first; row < first + count; ++row, to += size) {
            if (row < 0 || row >= task.height) {
                std::fill_n(to, size, 0.0);
                continue;
            }
            const float *from = task.x + (image * task.height + row) * task.width * channels;
            std::fill_n(to, before, 0.0);
            for (int64_t i = 0; i < inside; ++i) to[before + i] = from[i];
            std::fill(to + before + inside, to + size, 0.0);
        }
    }

    void run_bands(int64_t most, int threads) const {
        const RealKernels &kernels = *current_kernels().real;
        const int64_t height = std::min(most, ceil_div(task.out[0], threads)), bands = ceil_div(task.out[0], height);
        const int64_t reach = (task.size[0] - 1) * task.dilation[0] + 1;
        parallel_for(task.images * bands, threads, [&](int64_t begin, int64_t end) {
            std::vector<double> rows(static_cast<size_t>(((height - 1) * task.stride[0] + reach) * row_size()));
            for (int64_t i = begin; i < end; ++i) {
                const int64_t image = i / bands, first = i % bands * height, last = std::min(first + height, task.out[0]);
                copy_rows(image, first * task.stride[0] - task.padding[0],
                          (last - first - 1) * task.stride[0] + reach, rows.data());
                for (int64_t block = 0; block < blocks; ++block)
                    for (int64_t row = first; row < last; ++row)
                        kernels.tile({rows.data() + (row - first) * task.stride[0] * row_size(), task.out[1],
                                      task.size[0], task.size[1] * channels, task.stride[1] * channels,
                                      task.dilation[0] * row_size(), weights.data() + block * depth * kRealLanes,
                                      bias.data() + block * kRealLanes,
                                      task.y + (image * task.out[0] + row) * task.out[1] * task.filters +
                                          block * kRealLanes,
                                      std::min(kRealLanes, share - block * kRealLanes), task.filters});
            }
        });
    }

    void run_patches(int threads) const {
        const RealKernels &kernels = *current_kernels().real;
        const int64_t pixels = task.images * task.out[0] * task.out[1];
        const int64_t at_once = std::clamp<int64_t>(kBytes / (pitch * 8), 8, 64);
        parallel_for(ceil_div(pixels, at_once), threads, [&](int64_t first_tile, int64_t last_tile) {
            std::vector<double> patches(static_cast<size_t>(at_once * pitch));
            for (int64_t tile = first_tile; tile < last_tile; ++tile) {
                const int64_t first = tile * at_once, count = std::min(at_once, pixels - first);
                for (int64_t p = 0; p < count; ++p) make_patch(first + p, patches.data() + p * pitch);
                for (int64_t block = 0; block < task.groups * blocks; ++block) {
                    const int64_t group = block / blocks, filter = block % blocks * kRealLanes;
                    kernels.tile({patches.data() + group * depth, count, 1, depth, pitch, 0,
                                  weights.data() + block * depth * kRealLanes, bias.data() + block * kRealLanes,
                                  task.y + first * task.filters + group * share + filter,
                                  std::min(kRealLanes, share - filter), task.filters});
                }
            }
        });
    }

    void run(int threads) const {
        const int64_t rows = band();
        rows > 0 ? run_bands(rows, threads) : run_patches(threads);
    }
};

}  // namespace

std::function<void(int)> real_conv2d(const RealTask &task) {
    return [made = std::make_shared<RealConvolution>(task)](int threads) { made->run(threads); };
}

}  // namespace hypersign
