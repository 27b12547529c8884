// What all threads of a convolution share: sizes, pointers to pixels under the taps, thresholds of each padding
// pattern.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "borders.hpp"
#include "product/filters.hpp"

namespace hypersign {

// One row of numbers for each pixel of a run, as `ProductTile::thresholds`.
using RunThresholds = std::array<const int32_t *, kMaxRun>;

struct ConvolutionPlan {
    ConvolutionPlan(const ProductFilters &filters, const PackedImages &images, const Window &window,
                    const ProductThresholds &thresholds, void *out);

    const ProductFilters &filters;
    PackedImages images;
    const Window window;
    const bool levels, ternary_levels;  // of the output
    void *const out;
    int64_t height, width, pixels;  // of the output
    const uint32_t *input;
    int planes;
    int64_t pixel_words, plane_words;  // of the input, in words of 32 bits
    std::vector<uint32_t> padding;     // a padded pixel, one plane after the other

    // Calls visit(image, row, column, done, count) for each part of an output row in a run of pixels: where the part
    // begins, how many pixels come before it, and how many it has.
    template <typename Visit>
    void for_each_row(int64_t pixel, int64_t size, Visit &&visit) const {
        int64_t column = pixel % width, row = pixel / width % height, image = pixel / width / height;
        for (int64_t done = 0; done < size;) {
            const int64_t count = std::min(width - column, size - done);
            visit(image, row, column, done, count);
            done += count;
            column = 0;
            if (++row == height) row = 0, ++image;
        }
    }

    void find_thresholds(int64_t pixel, int64_t size, RunThresholds &to) const;

    // The pointers of a run of `kernels.pixels` pixels, found once for all calls.
    struct Pointers {
        std::vector<const int32_t *> thresholds;
        std::vector<const uint32_t *> x;
    };
    // Those of the run in which all these pixels lie; null where there is none, or it would take too much memory.
    const Pointers *known_pointers(int64_t pixel, int64_t size) const {
        const int64_t run = filters.kernels.pixels;
        if (pointers_.empty() || pixel / run != (pixel + size - 1) / run) return nullptr;
        return &pointers_[pixel / run];
    }

    // Pointers to the input pixels under a run of at most kPixels pixels, as `ProductTile::x`.
    void find_pixels(int64_t pixel, int64_t size, std::vector<const uint32_t *> &x) const;

    // The product of a run of pixels with a block of filters, without inputs.
    // Sums go to `sums`, (size, filters), where that is given.
    ProductTile tile(const FilterBlock &block, int64_t pixel, int64_t size, const int32_t *const *thresholds,
                     int32_t *sums = nullptr) const;

    // Clears the bits of the last word of levels that no register of filters reaches.
    void clear_rest(int64_t pixel, int64_t size) const;

   private:
    void make_offsets(int64_t pattern, std::vector<int32_t> &offset) const;
    void make_thresholds(const ProductThresholds &given);
    void find_pointers();
    void point(const uint32_t **to, int64_t row, int64_t column, int size, int64_t line) const;

    bool corrected_;               // for padding
    Borders down_, across_;        // padding patterns of rows and columns, where it is corrected
    std::vector<int32_t> thresholds_;  // [pattern][low, high][filter]
    std::vector<uint16_t> flip_;
    std::vector<Pointers> pointers_;  // of each run of `kernels.pixels` pixels
};

// Thresholds and inputs of a run of at most kPixels pixels, as ProductTile has them.
struct RunPointers {
    const int32_t *const *thresholds;
    const uint32_t *const *x;

    void find(const ConvolutionPlan &plan, int64_t pixel, int64_t size) {
        if (const ConvolutionPlan::Pointers *known = plan.known_pointers(pixel, size)) {
            const int64_t first = pixel % plan.filters.kernels.pixels;
            thresholds = known->thresholds.data() + first;
            x = known->x.data() + first;
            return;
        }
        plan.find_thresholds(pixel, size, own_thresholds_);
        plan.find_pixels(pixel, size, own_x_);
        thresholds = own_thresholds_.data();
        x = own_x_.data();
    }

   private:
    RunThresholds own_thresholds_;
    std::vector<const uint32_t *> own_x_;
};

}  // namespace hypersign
