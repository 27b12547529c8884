// A convolution: divides the output among threads, as tiles or as lookup passes.
#include <algorithm>
#include <memory>
#include <utility>

#include "integers.hpp"
#include "parallel.hpp"
#include "product/lookup/convolution.hpp"
#include "product/plan.hpp"
#include "product/sliced/convolution.hpp"

namespace hypersign {
namespace {

// A thread's preparation of a run of pixels; all blocks of filters share it.
struct TileRun {
    RunPointers pointers;
    std::vector<uint16_t> table_offsets;
    int64_t first_word, words;  // that the table offsets are of

    void prepare(const ConvolutionPlan &plan, int64_t pixel, int64_t size) {
        pointers.find(plan, pixel, size);
        first_word = -1;
    }

    void multiply(const ConvolutionPlan &plan, const FilterBlock &block, int64_t pixel, int64_t size,
                  int32_t *sums = nullptr) {
        const ProductKernels &kernels = plan.filters.kernels;
        ProductTile tile = plan.tile(block, pixel, size, pointers.thresholds, sums);
        tile.x = pointers.x;
        if (kernels.write_table_offsets) {
            if (first_word != block.first_word || words != block.words) {
                table_offsets.resize(kernels.workspace_size(tile));
                kernels.write_table_offsets(tile, table_offsets.data());
                first_word = block.first_word;
                words = block.words;
            }
            tile.table_offsets = table_offsets.data();
        }
        kernels.tile(tile);
    }
};

// Where runs of pixels begin, and the end.
std::vector<int64_t> tile_runs(const ConvolutionPlan &plan, int threads) {
    const ProductKernels &kernels = plan.filters.kernels;
    const int64_t blocks = plan.filters.blocks.size();
    int64_t size = plan.levels ? kernels.pixels_to_levels : kernels.pixels;
    if (ceil_div(plan.pixels, size) * blocks < 2 * threads) size = kernels.pixels;
    std::vector<int64_t> begin;
    for (int64_t pixel = 0; pixel < plan.pixels; pixel += size) begin.push_back(pixel);
    begin.push_back(plan.pixels);
    return begin;
}

// Each run meets all blocks of filters one after the other, so that they share its preparation.
template <typename Run>
void multiply_runs(const ConvolutionPlan &plan, const std::vector<int64_t> &begin, int threads) {
    const int64_t blocks = plan.filters.blocks.size();
    parallel_for((begin.size() - 1) * blocks, threads, [&](int64_t first, int64_t last) {
        Run run;
        for (int64_t i = first; i < last; ++i) {
            const int64_t pixel = begin[i / blocks], size = begin[i / blocks + 1] - pixel;
            if (i == first || i % blocks == 0) run.prepare(plan, pixel, size);
            run.multiply(plan, plan.filters.blocks[i % blocks], pixel, size);
            if (i % blocks == blocks - 1) plan.clear_rest(pixel, size);
        }
    });
}

// A run meets all blocks on one thread, which then has its sums in the cache.
template <typename Run>
void multiply_and_take(const ConvolutionPlan &plan, const std::vector<int64_t> &begin, int threads,
                       const ProductFilters::TakeSums &take) {
    parallel_for(begin.size() - 1, threads, [&](int64_t first, int64_t last) {
        Run run;
        int64_t most = 0;
        for (int64_t i = first; i < last; ++i) most = std::max(most, begin[i + 1] - begin[i]);
        const std::unique_ptr<int32_t[]> sums(new int32_t[static_cast<size_t>(most * plan.filters.filters)]);
        for (int64_t i = first; i < last; ++i) {
            const int64_t pixel = begin[i], size = begin[i + 1] - pixel;
            run.prepare(plan, pixel, size);
            for (const FilterBlock &block : plan.filters.blocks) run.multiply(plan, block, pixel, size, sums.get());
            take(pixel, size, sums.get());
        }
    });
}

void convolve_and_take(const ConvolutionPlan &plan, int threads, const ProductFilters::TakeSums &take) {
    if (filters_look_up(plan)) {  // of few pixels
        std::vector<int32_t> sums(static_cast<size_t>(plan.pixels * plan.filters.filters));
        convolve_by_filter_lookup(plan, threads, sums.data());
        take(0, plan.pixels, sums.data());
    } else if (slices_count(plan)) {
        convolve_by_slices(plan, threads, &take);
    } else if (pixels_look_up(plan)) {
        multiply_and_take<LookupRun>(plan, lookup_runs(plan, threads), threads, take);
    } else {
        multiply_and_take<TileRun>(plan, tile_runs(plan, threads), threads, take);
    }
}

void convolve(const ConvolutionPlan &plan, int threads) {
    if (filters_look_up(plan)) {
        convolve_by_filter_lookup(plan, threads);
        plan.clear_rest(0, plan.pixels);
    } else if (slices_count(plan)) {
        convolve_by_slices(plan, threads);
    } else if (pixels_look_up(plan)) {
        multiply_runs<LookupRun>(plan, lookup_runs(plan, threads), threads);
    } else {
        multiply_runs<TileRun>(plan, tile_runs(plan, threads), threads);
    }
}

}  // namespace

std::function<void(int)> ProductFilters::convolve(const PackedImages &images, const Window &window,
                                                  const ProductThresholds &thresholds, void *out) const {
    if (images.n == 0 || filters == 0) return [](int) {};
    return [plan = std::make_shared<ConvolutionPlan>(*this, images, window, thresholds, out)](int threads) {
        hypersign::convolve(*plan, threads);
    };
}

std::function<void(int)> ProductFilters::convolve(const PackedImages &images, const Window &window,
                                                  TakeSums take) const {
    if (images.n == 0 || filters == 0) return [](int) {};
    return [plan = std::make_shared<ConvolutionPlan>(*this, images, window, ProductThresholds{}, nullptr),
            take = std::move(take)](int threads) { convolve_and_take(*plan, threads, take); };
}

}  // namespace hypersign
