#include "product/sliced/convolution.hpp"

#include <memory>

#include "integers.hpp"
#include "parallel.hpp"
#include "product/sliced/sliced.hpp"

namespace hypersign {
namespace {

constexpr int64_t kNarrow = 256, kWide = 512;  // filters of a block
constexpr int64_t kWordsAtOnce = 1 << 10;      // of which a thread makes indices

int64_t block_bits(int64_t left) { return left > kNarrow ? kWide : kNarrow; }

int64_t chunks_of(const ProductFilters &filters) {
    return filters.rows * filters.columns * ceil_div(filters.blocks.front().words, 2);
}

// The bits of all filters by level, made of the words of `pack_weights_by_word`.
void write_planes(const ProductFilters &filters, SlicedFilters &to) {
    size_t size = 0;
    for (int64_t first = 0; first < filters.filters; first += kWide) {  // all blocks but the last are wide
        const int64_t left = filters.filters - first, bits = block_bits(left);
        to.blocks.push_back({first, static_cast<int>(std::min(left, bits)), bits, size});
        size += static_cast<size_t>(chunks_of(filters) * kSlicedLevels * bits / 8);
    }
    to.memory.resize(size + 64);
    void *at = to.memory.data();
    size_t space = to.memory.size();
    auto *planes = static_cast<uint8_t *>(std::align(64, size, at, space));
    to.planes = planes;
    for (const FilterBlock &from : filters.blocks) {
        const int64_t lanes = from.registers * filters.kernels.lanes, words = from.words;
        for (int64_t i = 0; i < from.filters; ++i) {
            const int64_t number = (from.first_filter + i) / kWide;  // all blocks but the last are wide
            const SlicedFilters::Block &block = to.blocks[static_cast<size_t>(number)];
            const int64_t bit = sliced_bit(from.first_filter + i - block.first_filter, block.bits);
            uint8_t *plane = planes + block.start + bit / 8;
            for (int64_t tap = 0; tap < filters.rows * filters.columns; ++tap)
                for (int64_t word = 0; word < ceil_div(words, 2) * 2; ++word, plane += 32 * block.bits / 8) {
                    uint32_t levels = word < words ? filters.weights[from.start + (tap * words + word) * lanes + i] : 0;
                    for (; levels; levels &= levels - 1)
                        plane[__builtin_ctz(levels) * block.bits / 8] |= static_cast<uint8_t>(1 << bit % 8);
                }
        }
    }
}

const SlicedFilters &sliced_filters(const ProductFilters &filters) {
    std::call_once(filters.sliced.written, [&] { write_planes(filters, filters.sliced); });
    return filters.sliced;
}

}  // namespace

bool slices_count(const ConvolutionPlan &plan) {
    const ProductFilters &filters = plan.filters;
    const SlicedKernels *kernels = filters.kernels.sliced;
    if (!kernels || plan.images.ternary || filters.ternary || filters.blocks.back().first_word != 0) return false;
    const int64_t last = filters.filters % kWide, bits = last ? block_bits(last) : kWide;
    const int64_t all = filters.filters / kWide * kWide + (last ? bits : 0);
    return 4 * filters.filters >= 3 * all && chunks_of(filters) <= kSlicedChunks &&
           kernels->faster(plan.pixels, std::min(bits, all));
}

void convolve_by_slices(const ConvolutionPlan &plan, int threads, const ProductFilters::TakeSums *take) {
    const ProductFilters &filters = plan.filters;
    const SlicedKernels &kernels = *filters.kernels.sliced;
    const SlicedFilters &sliced = sliced_filters(filters);
    // Indices of the whole input, which several taps and all blocks share.
    const int64_t words = plan.images.n * plan.images.height * plan.images.width * plan.pixel_words / 2;
    const std::unique_ptr<SlicedIndices[]> indices(new SlicedIndices[static_cast<size_t>(words)]);
    const std::unique_ptr<uint8_t[]> odd(new uint8_t[static_cast<size_t>(words)]);
    parallel_for(ceil_div(words, kWordsAtOnce), threads, [&](int64_t begin, int64_t end) {
        const int64_t first = begin * kWordsAtOnce, last = std::min(end * kWordsAtOnce, words);
        kernels.write_indices(plan.input + 2 * first, last - first, indices.get() + first, odd.get() + first);
    });
    const int64_t blocks = static_cast<int64_t>(sliced.blocks.size()), parts = take ? 1 : blocks;  // of a tile's work
    parallel_for(ceil_div(plan.pixels, kernels.pixels) * parts, threads, [&](int64_t begin, int64_t end) {
        std::unique_ptr<int32_t[]> sums(take ? new int32_t[kernels.pixels * filters.filters] : nullptr);
        RunPointers pointers;
        for (int64_t i = begin; i < end; ++i) {
            const int64_t pixel = i / parts * kernels.pixels, size = std::min(kernels.pixels, plan.pixels - pixel);
            if (i == begin || i % parts == 0) pointers.find(plan, pixel, size);
            for (int64_t number = i % parts; number < blocks; number += parts) {
                const SlicedFilters::Block &each = sliced.blocks[static_cast<size_t>(number)];
                FilterBlock block = filters.blocks.front();
                block.first_filter = each.first_filter;
                block.filters = each.filters;
                SlicedTask task{plan.tile(block, pixel, size, pointers.thresholds, sums.get()),
                                each.bits,
                                sliced.planes + each.start,
                                plan.input,
                                words,
                                indices.get(),
                                odd.get()};
                task.tile.x = pointers.x;
                kernels.run(task);
            }
            if (take) (*take)(pixel, size, sums.get());
            else if (i % parts == parts - 1) plan.clear_rest(pixel, size);
        }
    });
}

}  // namespace hypersign
