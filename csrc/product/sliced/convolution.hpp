// Bit-sliced counting (product/sliced/sliced.hpp) as the convolution sees it: when it is faster, and how it runs.
#pragma once
#include "product/plan.hpp"

namespace hypersign {

bool slices_count(const ConvolutionPlan &plan);
// Sums go to `take`, if given, as in `ProductFilters::convolve`.
void convolve_by_slices(const ConvolutionPlan &plan, int threads, const ProductFilters::TakeSums *take = nullptr);

}  // namespace hypersign
