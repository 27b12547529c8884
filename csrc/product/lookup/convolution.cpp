#include "product/lookup/convolution.hpp"

#include <mutex>

#include "integers.hpp"
#include "parallel.hpp"
#include "product/lookup/lookup.hpp"

namespace hypersign {
namespace {

constexpr int64_t kUsesBeforeIndices = 16;

const LookupKernels &lookup_of(const ConvolutionPlan &plan) { return *plan.filters.kernels.lookup; }

// Levels of a filter.
int64_t levels_of(const ConvolutionPlan &plan) {
    return plan.filters.blocks.front().depth * plan.filters.rows * plan.filters.columns;
}

// The LUT indices of the filters, written once.
const std::vector<uint8_t> &filter_indices(const ProductFilters &filters) {
    std::call_once(filters.lookup.written, [&] {
        const LookupKernels &kernels = *filters.kernels.lookup;
        const int64_t bytes = kernels.filter_index_bytes;
        std::vector<uint8_t> &indices = filters.lookup.indices;
        FilterIndices to{};
        to.ternary = filters.ternary;
        to.taps = filters.rows * filters.columns;
        to.words = filters.blocks.front().words;
        to.depth = filters.blocks.front().depth;
        to.tap_stride = filters.padded * bytes;
        to.slice_stride = to.taps * to.tap_stride;
        indices.resize(kernels.filter_slices(filters.ternary, to.depth) * to.slice_stride);
        for (const FilterBlock &block : filters.blocks) {
            to.block = filters.weights.get() + block.start;
            to.filters = block.registers * filters.kernels.lanes;
            to.indices = indices.data() + block.first_filter * bytes;
            kernels.write_filter_indices(to);
        }
    });
    return filters.lookup.indices;
}

// Filters [first, last), whole registers, with all pixels.
void multiply_filters(const ConvolutionPlan &plan, int64_t first, int64_t last, int32_t *sums) {
    const ProductFilters &filters = plan.filters;
    const LookupKernels &kernels = lookup_of(plan);
    FilterBlock block = filters.blocks.front();
    block.first_filter = first;
    block.filters = static_cast<int>(std::min(last, filters.filters) - first);
    block.registers = kLookupPixels / filters.kernels.lanes;
    RunThresholds thresholds;
    std::vector<const uint32_t *> pointers;
    plan.find_thresholds(0, plan.pixels, thresholds);
    plan.find_pixels(0, plan.pixels, pointers);
    LookupTask task{};
    task.tile = plan.tile(block, 0, plan.pixels, thresholds.data(), sums);
    const int64_t taps = task.tile.taps, tap_words = block.words * plan.planes * kLookupPixels;
    const AlignedWords pixels = aligned_words(taps * tap_words);
    for (int64_t tap = 0; tap < taps; ++tap) {
        const uint32_t **x = pointers.data() + tap * plan.planes * kPixels;
        for (int plane = 0; plane < plan.planes; ++plane)
            std::fill(x + plane * kPixels + plan.pixels, x + plane * kPixels + kLookupPixels, x[plane * kPixels]);
        filters.kernels.pack_weights(x, plan.images.ternary ? x + kPixels : nullptr, block.words, kLookupPixels,
                                     pixels.get() + tap * tap_words);
    }
    const int64_t bytes = kernels.filter_index_bytes;
    std::array<int64_t, kMaxRun + 1> row_offsets;
    std::vector<int64_t> tap_offsets;
    for (int64_t filter = first; filter < last; ++filter) row_offsets[filter - first] = filter * bytes;
    row_offsets[last - first] = 0;
    for (int64_t tap = 0; tap < taps; ++tap) tap_offsets.push_back(tap * filters.padded * bytes);
    task.block = pixels.get();
    task.rows = last - first;
    task.indices = filter_indices(filters).data();
    task.slice_stride = taps * filters.padded * bytes;
    task.row_offsets = row_offsets.data();
    task.tap_offsets = tap_offsets.data();
    kernels.run_filters(task);
}

}  // namespace

bool pixels_look_up(const ConvolutionPlan &plan) {
    if (!plan.filters.kernels.lookup) return false;
    const Window &window = plan.window;
    // Indices are written for all pixels under a run, even those that a window leaves out.
    const bool dense = window.stride[0] * window.stride[1] <= 4 * plan.filters.rows * plan.filters.columns &&
                       std::max(window.dilation[0], window.dilation[1]) <= 4;
    return dense && lookup_of(plan).faster(plan.pixels, levels_of(plan), plan.filters.blocks.front().registers);
}

// Runs are whole rows of the output, or lie in one, because a row shares the indices of the input. There are enough
// of them for all threads.
std::vector<int64_t> lookup_runs(const ConvolutionPlan &plan, int threads) {
    const int64_t blocks = plan.filters.blocks.size(), rows = plan.images.n * plan.height;
    const int64_t wanted = std::min(ceil_div(threads, blocks), ceil_div(plan.pixels, plan.filters.kernels.pixels));
    const int64_t max_rows = std::max<int64_t>(1, kMaxRun / plan.width);  // of a run
    const int64_t bands = std::max(ceil_div(rows, max_rows), std::min(rows, wanted));
    const int64_t parts = std::max(ceil_div(plan.width, kMaxRun), ceil_div(wanted, bands));  // of a band of one row
    std::vector<int64_t> begin;
    for (int64_t band = 0; band < bands; ++band) {
        const int64_t first = band * rows / bands, last = (band + 1) * rows / bands;
        for (int64_t part = 0; part < (last - first == 1 ? parts : 1); ++part)
            begin.push_back(first * plan.width + part * plan.width / parts);
    }
    begin.push_back(plan.pixels);
    return begin;
}

void LookupRun::prepare(const ConvolutionPlan &plan, int64_t pixel, int64_t size) {
    plan.find_thresholds(pixel, size, thresholds);
    first_word = -1;
}

void LookupRun::multiply(const ConvolutionPlan &plan, const FilterBlock &block, int64_t pixel, int64_t size,
                         int32_t *sums) {
    if (first_word != block.first_word || words != block.words) {
        write_indices(plan, block, pixel, size);
        first_word = block.first_word;
        words = block.words;
    }
    LookupTask task{};
    task.tile = plan.tile(block, pixel, size, thresholds.data(), sums);
    task.block = task.tile.weights;
    task.rows = size;
    task.indices = indices.data();
    task.slice_stride = slice_stride;
    task.row_offsets = row_offsets.data();
    task.tap_offsets = tap_offsets.data();
    lookup_of(plan).run(task);
}

// Indices of the input under the run: lines of pixels with their padding, one image after the other.
void LookupRun::write_indices(const ConvolutionPlan &plan, const FilterBlock &block, int64_t pixel, int64_t size) {
    const LookupKernels &kernels = lookup_of(plan);
    const ProductFilters &filters = plan.filters;
    const PackedImages &images = plan.images;
    const Window &window = plan.window;
    const int64_t bytes = kernels.index_bytes, output_width = plan.width;
    const int64_t last_tap[2] = {(filters.rows - 1) * window.dilation[0], (filters.columns - 1) * window.dilation[1]};
    // Columns: all, or those under one row's part.
    int64_t first = 0, last = output_width - 1;
    if (pixel / output_width == (pixel + size - 1) / output_width)
        first = pixel % output_width, last = (pixel + size - 1) % output_width;
    const int64_t left = first * window.stride[1] - window.padding[1];
    const int64_t width = last * window.stride[1] - window.padding[1] + last_tap[1] + 1 - left;

    std::vector<std::pair<int64_t, int64_t>> lines;  // image and row
    int64_t begin = 0;                               // of an image's lines
    plan.for_each_row(pixel, size, [&](int64_t image, int64_t row, int64_t column, int64_t done, int64_t count) {
        const int64_t y = row * window.stride[0] - window.padding[0];
        if (lines.empty() || lines.back().first != image) {
            begin = lines.size();
            lines.push_back({image, y});
        }
        while (lines.back().second < y + last_tap[0]) lines.push_back({image, lines.back().second + 1});
        const int64_t line = begin + y - lines[begin].second;
        for (int64_t p = 0; p < count; ++p)
            row_offsets[done + p] =
                (line * width + (column + p) * window.stride[1] - window.padding[1] - left) * bytes;
    });
    row_offsets[size] = 0;
    tap_offsets.clear();
    for (int64_t i = 0; i < filters.rows; ++i)
        for (int64_t j = 0; j < filters.columns; ++j)
            tap_offsets.push_back((i * window.dilation[0] * width + j * window.dilation[1]) * bytes);

    const int64_t slices = kernels.slices(images.ternary, block.depth);
    slice_stride = static_cast<int64_t>(lines.size()) * width * bytes;
    indices.resize(slices * slice_stride);
    const uint32_t *padding = plan.padding.data() + block.first_word;
    const int64_t inside[2] = {std::clamp<int64_t>(-left, 0, width), std::clamp<int64_t>(images.width - left, 0, width)};
    uint8_t *to = indices.data();
    auto write = [&](const uint32_t *sign, const uint32_t *nonzero, int64_t pixels, int64_t stride) {
        constexpr int64_t kPixelsInCache = 64;  // whose words stay there for all slices
        for (int64_t p = 0; p < pixels; p += kPixelsInCache) {
            const int64_t count = std::min(kPixelsInCache, pixels - p);
            for (int64_t slice = 0; slice < slices; ++slice)
                kernels.write_indices(sign + p * stride, images.ternary ? nonzero + p * stride : nullptr, block.depth,
                                      count, stride, slice, to + slice * slice_stride);
            to += count * bytes;
        }
    };
    for (const auto &[image, y] : lines) {
        const bool on = y >= 0 && y < images.height;
        const int64_t from = on ? inside[0] : width, until = on ? std::max(inside[0], inside[1]) : width;
        write(padding, padding + plan.pixel_words, from, 0);
        if (until > from) {
            const int64_t at = ((image * images.height + y) * images.width + left + from) * plan.pixel_words;
            const uint32_t *pixels = plan.input + at + block.first_word;
            write(pixels, pixels + plan.plane_words, until - from, plan.pixel_words);
        }
        write(padding, padding + plan.pixel_words, width - until, 0);
    }
}

bool filters_look_up(const ConvolutionPlan &plan) {
    const ProductFilters &filters = plan.filters;
    return filters.kernels.lookup && plan.images.ternary == filters.ternary &&
           filters.blocks.back().first_word == 0 &&
           lookup_of(plan).filters_faster(plan.pixels, levels_of(plan), filters.filters) &&
           filters.lookup.uses++ >= kUsesBeforeIndices;
}

void convolve_by_filter_lookup(const ConvolutionPlan &plan, int threads, int32_t *sums) {
    const int64_t lanes = plan.filters.kernels.lanes, registers = plan.filters.padded / lanes;
    const int64_t parts = std::max(ceil_div(plan.filters.padded, kMaxRun), std::min<int64_t>(threads, registers));
    parallel_for(parts, threads, [&](int64_t first, int64_t last) {
        for (int64_t part = first; part < last; ++part)
            multiply_filters(plan, part * registers / parts * lanes, (part + 1) * registers / parts * lanes, sums);
    });
}

}  // namespace hypersign
