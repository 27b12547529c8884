#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "image/image.hpp"
#include "parallel.hpp"

namespace hypersign {
namespace {

constexpr int64_t COPY = 16;  // bytes copied at once; what is too many is written over by the next copy

int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

// The taps of a filter that lie inside the image, along one axis, at each place: ranges, numbered without repetition.
struct Borders {
    std::vector<std::pair<int64_t, int64_t>> ranges;  // [first tap, last tap)
    std::vector<size_t> at;                           // for each place, which range

    Borders(int64_t places, int64_t length, int64_t size, int64_t stride, int64_t padding, int64_t dilation) {
        for (int64_t place = 0; place < places; ++place) {
            const int64_t origin = place * stride - padding;
            int64_t first = 0, last = size;
            while (first < size && origin + first * dilation < 0) ++first;
            while (last > first && origin + (last - 1) * dilation >= length) --last;
            const std::pair<int64_t, int64_t> range{first, last};
            // Neighbours share ranges, so what is looked for is near the end.
            const auto found = std::find(ranges.rbegin(), ranges.rend(), range);
            at.push_back(static_cast<size_t>(ranges.rend() - found) - 1);
            if (found == ranges.rend()) {
                at.back() = ranges.size();
                ranges.push_back(range);
            }
        }
    }
};

}  // namespace

void image_conv2d(const ImageTask &task) {
    const ImageKernels &kernels = image_kernels(backend());
    const int64_t lanes = round_up(task.filters, IMAGE_LANES), words = (task.filters + 63) / 64;
    const int64_t segment = task.size[1] * task.channels;  // bytes of a kernel row
    const int64_t depth = round_up(task.size[0] * segment, IMAGE_TAPS);
    const Borders rows(task.out[0], task.height, task.size[0], task.stride[0], task.padding[0], task.dilation[0]);
    const Borders columns(task.out[1], task.width, task.size[1], task.stride[1], task.padding[1], task.dilation[1]);

    // What the shift adds: (row ranges, column ranges, lanes).
    std::vector<int32_t> starts(rows.ranges.size() * columns.ranges.size() * static_cast<size_t>(lanes));
    int32_t *start = starts.data();
    for (const auto &[top, bottom] : rows.ranges)
        for (const auto &[left, right] : columns.ranges) {
            for (int64_t i = top; i < bottom; ++i)
                for (int64_t j = left; j < right; ++j)
                    for (int64_t lane = 0; lane < lanes; ++lane)
                        start[lane] += task.taps[(i * task.size[1] + j) * lanes + lane];
            start += lanes;
        }

    int64_t largest = 0;
    for (int64_t i = 0; i < lanes * depth; ++i) largest = std::max<int64_t>(largest, std::abs(task.weights[i]));

    parallel_for(task.images * task.out[0], task.threads, [&](int64_t first, int64_t last) {
        const int64_t pitch = (task.width + 2 * task.padding[1]) * task.channels + COPY;
        // Padded lines of the image, as many as a kernel reaches over, and which they are.
        const int64_t reach = (task.size[0] - 1) * task.dilation[0] + 1, step = task.stride[1] * task.channels;
        std::vector<uint8_t> lines(static_cast<size_t>(reach * pitch));
        std::vector<std::pair<int64_t, int64_t>> held(static_cast<size_t>(reach), {-1, 0});
        std::vector<const uint8_t *> line_of(static_cast<size_t>(task.size[0]));
        std::vector<uint8_t> patches(static_cast<size_t>(task.out[1] * depth + segment + COPY));
        std::vector<const int32_t *> start_of(static_cast<size_t>(task.out[1]));
        // Taps side by side are one copy.
        const int64_t copies = task.dilation[1] == 1 ? 1 : task.size[1], bytes = segment / copies;
        for (int64_t tile = first; tile < last; ++tile) {
            const int64_t image = tile / task.out[0], y = tile % task.out[0];
            for (int64_t i = 0; i < task.size[0]; ++i) {
                const int64_t above = y * task.stride[0] + i * task.dilation[0], line = above - task.padding[0];
                const int64_t slot = above % reach;
                line_of[static_cast<size_t>(i)] = lines.data() + slot * pitch;
                if (held[static_cast<size_t>(slot)] != std::pair{image, line}) {
                    held[static_cast<size_t>(slot)] = {image, line};
                    uint8_t *to = lines.data() + slot * pitch + task.padding[1] * task.channels;
                    const size_t size = static_cast<size_t>(task.width * task.channels);
                    if (line < 0 || line >= task.height)
                        std::memset(to, 0, size);
                    else
                        std::memcpy(to, task.x + (image * task.height + line) * static_cast<int64_t>(size), size);
                }
            }
            // In order, since what a copy writes past its end the next ones write over.
            for (int64_t x = 0; x < task.out[1]; ++x) {
                uint8_t *to = patches.data() + x * depth;
                for (const uint8_t *line : line_of) {
                    const uint8_t *from = line + x * step;
                    for (int64_t j = 0; j < copies; ++j, from += task.dilation[1] * task.channels, to += bytes)
                        if (bytes <= COPY)
                            std::memcpy(to, from, COPY);
                        else
                            std::memcpy(to, from, static_cast<size_t>(bytes));
                }
                start_of[static_cast<size_t>(x)] =
                    starts.data() + (rows.at[static_cast<size_t>(y)] * columns.ranges.size() +
                                     columns.at[static_cast<size_t>(x)]) *
                                        static_cast<size_t>(lanes);
            }
            ImageRow row{};
            row.patches = patches.data();
            row.pixels = task.out[1];
            row.fours = depth / IMAGE_TAPS;
            row.weights = task.weights;
            row.largest = largest;
            row.start = start_of.data();
            row.filters = task.filters;
            row.low = task.low;
            row.high = task.high;
            row.flip = task.flip;
            if (task.sums != nullptr)
                row.sums = task.sums + tile * task.out[1] * task.filters;
            else
                row.sign = task.sign + tile * task.out[1] * words;
            if (task.nonzero != nullptr) row.nonzero = task.nonzero + tile * task.out[1] * words;
            kernels.row(row);
        }
    });
}

}  // namespace hypersign
