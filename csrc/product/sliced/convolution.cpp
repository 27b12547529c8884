#include "product/sliced/convolution.hpp"

#include <memory>

#include "integers.hpp"
#include "parallel.hpp"
#include "product/sliced/sliced.hpp"

namespace hypersign {
namespace {

constexpr int64_t kWordsAtOnce = 1 << 10;  // of which a thread makes indices

constexpr int64_t kBytes = kSlicedFilters / 8;  // of a plane

int64_t chunks_of(const ProductFilters &filters) {
    return filters.rows * filters.columns * ceil_div(filters.blocks.front().words, 2);
}

int64_t block_size(const ProductFilters &filters) { return chunks_of(filters) * kSlicedLevels * kBytes; }

// Byte i of the result holds bit i of each byte of x: bit 8 i + j becomes bit 8 j + i.
uint64_t transpose(uint64_t x) {
    const auto swap = [&](int distance, uint64_t mask) {
        const uint64_t differ = (x ^ x >> distance) & mask;
        x ^= differ ^ differ << distance;
    };
    swap(7, 0x00aa00aa00aa00aau);
    swap(14, 0x0000cccc0000ccccu);
    swap(28, 0x00000000f0f0f0f0u);
    return x;
}

// The bits of all filters by level, made of the words of `pack_weights_by_word`. Eight filters share the bytes of a
// chunk's 64 planes (`sliced_bit`), so their words become those bytes, eight by eight bits at a time.
void write_planes(const ProductFilters &filters, SlicedFilters &to) {
    const size_t size = static_cast<size_t>(ceil_div(filters.filters, kSlicedFilters) * block_size(filters));
    to.memory.resize(size + kBytes);
    void *at = to.memory.data();
    size_t space = to.memory.size();
    auto *planes = static_cast<uint8_t *>(std::align(kBytes, size, at, space));
    to.planes = planes;
    const int64_t words = filters.blocks.front().words, tap_chunks = ceil_div(words, 2);
    for (int64_t first = 0; first < filters.filters; first += kSlicedFilters, planes += block_size(filters))
        for (int64_t chunk = 0; chunk < chunks_of(filters); ++chunk) {
            uint64_t levels[kSlicedFilters] = {};  // 64 of each filter
            for (const FilterBlock &from : filters.blocks) {
                if (from.first_filter < first || from.first_filter >= first + kSlicedFilters) continue;
                const int64_t lanes = from.registers * filters.kernels.lanes;
                for (int64_t half = 0, word = chunk % tap_chunks * 2; half < 2 && word < words; ++half, ++word) {
                    const uint32_t *row =
                        filters.weights.get() + from.start + (chunk / tap_chunks * words + word) * lanes;
                    for (int64_t i = 0; i < from.filters; ++i)
                        levels[from.first_filter - first + i] |= static_cast<uint64_t>(row[i]) << 32 * half;
                }
            }
            uint8_t *plane = planes + chunk * kSlicedLevels * kBytes;
            for (int64_t byte = 0; byte < kBytes; ++byte)
                for (int64_t eight = 0; eight < kSlicedLevels; eight += 8) {
                    uint64_t bits = 0;
                    for (int64_t k = 0; k < 8; ++k) bits |= (levels[k * kBytes + byte] >> eight & 0xff) << 8 * k;
                    bits = transpose(bits);
                    for (int64_t i = 0; i < 8; ++i)
                        plane[(eight + i) * kBytes + byte] = static_cast<uint8_t>(bits >> 8 * i);
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
    // A block that is not full takes as long as one that is.
    return 4 * filters.filters >= 3 * round_up(filters.filters, kSlicedFilters) &&
           chunks_of(filters) <= kSlicedChunks && kernels->faster(plan.pixels);
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
    const int64_t blocks = ceil_div(filters.filters, kSlicedFilters), parts = take ? 1 : blocks;  // of a tile's work
    parallel_for(ceil_div(plan.pixels, kernels.pixels) * parts, threads, [&](int64_t begin, int64_t end) {
        std::unique_ptr<int32_t[]> sums(take ? new int32_t[kernels.pixels * filters.filters] : nullptr);
        RunPointers pointers;
        for (int64_t i = begin; i < end; ++i) {
            const int64_t pixel = i / parts * kernels.pixels, size = std::min(kernels.pixels, plan.pixels - pixel);
            if (i == begin || i % parts == 0) pointers.find(plan, pixel, size);
            for (int64_t number = i % parts; number < blocks; number += parts) {
                FilterBlock block = filters.blocks.front();
                block.first_filter = number * kSlicedFilters;
                block.filters = static_cast<int>(
                    std::min<int64_t>(kSlicedFilters, filters.filters - block.first_filter));
                SlicedTask task{plan.tile(block, pixel, size, pointers.thresholds, sums.get()),
                                sliced.planes + number * block_size(filters),
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
