// The lookup method (product/lookup/lookup.hpp) as the convolution sees it: when it is faster, and how it runs.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "product/plan.hpp"

namespace hypersign {

// Whether pixels should look up tables of a block of filters, and the runs of pixels that they do it in: where each
// begins, and the end.
bool pixels_look_up(const ConvolutionPlan &plan);
std::vector<int64_t> lookup_runs(const ConvolutionPlan &plan, int threads);

// A thread's preparation of a run of pixels: the LUT indices of the input under it; all blocks of filters share it.
struct LookupRun {
    RunThresholds thresholds;
    std::array<int64_t, kMaxRun + 1> row_offsets;
    std::vector<int64_t> tap_offsets;
    int64_t slice_stride;
    std::vector<uint8_t> indices;
    int64_t first_word, words;  // that the indices are of

    void prepare(const ConvolutionPlan &plan, int64_t pixel, int64_t size);
    void multiply(const ConvolutionPlan &plan, const FilterBlock &block, int64_t pixel, int64_t size,
                  int32_t *sums = nullptr);

   private:
    void write_indices(const ConvolutionPlan &plan, const FilterBlock &block, int64_t pixel, int64_t size);
};

// Whether filters should look up tables of the pixels. Each call counts as a use: writing the filters' indices takes
// as long as some ten products, so it waits until they are used again and again.
bool filters_look_up(const ConvolutionPlan &plan);
void convolve_by_filter_lookup(const ConvolutionPlan &plan, int threads, int32_t *sums = nullptr);

}  // namespace hypersign
