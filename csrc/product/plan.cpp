#include "product/plan.hpp"

#include "integers.hpp"
#include "product/bits.hpp"

namespace hypersign {
namespace {

constexpr int64_t kMaxPointers = 1 << 16;  // that a convolution keeps

}  // namespace

ConvolutionPlan::ConvolutionPlan(const ProductFilters &filters, const PackedImages &given, const Window &window,
                                 const ProductThresholds &thresholds, void *out)
    : filters(filters),
      images(given),
      window(window),
      levels(thresholds.low != nullptr),
      ternary_levels(thresholds.high != nullptr),
      out(out),
      height(window.size(0, given.height, filters.rows)),
      width(window.size(1, given.width, filters.columns)),
      pixels(given.n * height * width),
      down_(0, 0, 0, 1, 0, 1),
      across_(down_) {
    const bool padded = window.padding[0] || window.padding[1];
    if (filters.rows * filters.columns == 1 && !padded && window.stride[0] == 1 && window.stride[1] == 1) {
        images.width = width = pixels;  // a matrix product: all pixels in one row
        images.n = images.height = height = 1;
    }
    // Padding of ternary inputs is exact, by zeros or by ones. Padding of binary inputs is +1. Where it should be 0,
    // the offsets subtract what it adds; they depend on which taps lie on the padding.
    corrected_ = padded && !images.ternary && window.pad_value == 0;
    if (corrected_) {
        down_ = Borders(height, images.height, filters.rows, window.stride[0], window.padding[0], window.dilation[0]);
        across_ =
            Borders(width, images.width, filters.columns, window.stride[1], window.padding[1], window.dilation[1]);
    } else {
        down_.ranges = across_.ranges = {{0, 0}};
    }
    make_thresholds(thresholds);
    if (levels) flip_ = pack_booleans(thresholds.flip, filters.filters, filters.padded);
    input = reinterpret_cast<const uint32_t *>(images.words);
    planes = images.ternary ? 2 : 1;
    pixel_words = 2 * ceil_div(filters.channels, 64);
    plane_words = images.n * images.height * images.width * pixel_words;
    padding.assign(2 * pixel_words, 0);
    if (window.pad_value == 1) set_bits(&padding[pixel_words], 0, filters.channels);
    find_pointers();
}

// Finding them takes as long as a product of few channels.
void ConvolutionPlan::find_pointers() {
    const int64_t run = filters.kernels.pixels;
    if (pixels * filters.rows * filters.columns * planes > kMaxPointers) return;
    RunThresholds thresholds;
    pointers_.resize(static_cast<size_t>(ceil_div(pixels, run)));
    for (int64_t pixel = 0; pixel < pixels; pixel += run) {
        const int64_t size = std::min(run, pixels - pixel);
        find_thresholds(pixel, size, thresholds);
        pointers_[pixel / run].thresholds.assign(thresholds.begin(), thresholds.begin() + size);
        find_pixels(pixel, size, pointers_[pixel / run].x);
    }
}

void ConvolutionPlan::make_offsets(int64_t pattern, std::vector<int32_t> &offset) const {
    const int64_t padded = filters.padded;
    if (images.ternary) {
        offset.assign(padded, 0);
        return;
    }
    offset = filters.nonzeros;
    if (!corrected_) return;
    const int64_t patterns_across = across_.ranges.size();
    const auto [i0, i1] = down_.ranges[pattern / patterns_across];
    const auto [j0, j1] = across_.ranges[pattern % patterns_across];
    auto sums = [&](int64_t i, int64_t j) { return &filters.tap_sums[(i * (filters.columns + 1) + j) * padded]; };
    const int32_t *whole = sums(filters.rows, filters.columns);
    const int32_t *a = sums(i1, j1), *b = sums(i0, j1), *c = sums(i1, j0), *d = sums(i0, j0);
    for (int64_t f = 0; f < padded; ++f) offset[f] += a[f] - b[f] - c[f] + d[f] - whole[f];
}

void ConvolutionPlan::make_thresholds(const ProductThresholds &given) {
    const int64_t padded = filters.padded, patterns = down_.ranges.size() * across_.ranges.size();
    const int64_t tables = ternary_levels ? 2 : 1;
    thresholds_.resize(patterns * tables * padded);
    std::vector<int32_t> offset;
    int32_t *row = thresholds_.data();
    for (int64_t pattern = 0; pattern < patterns; ++pattern) {
        make_offsets(pattern, offset);
        if (!levels) {
            row = std::copy(offset.begin(), offset.end(), row);
            continue;
        }
        // offset - 2 v < t where v > floor((offset - t) / 2), and -v < t where v > -t. Thresholds beyond every sum
        // are clamped, so that nothing overflows.
        const int32_t most = static_cast<int32_t>(filters.channels * filters.rows * filters.columns) + 1;
        for (int table = 0; table < tables; ++table, row += padded) {
            const int32_t *threshold = table ? given.high : given.low;
            const int shift = images.ternary ? 0 : 1;
            for (int64_t f = 0; f < filters.filters; ++f)
                row[f] = (offset[f] - std::clamp(threshold[f], -most, most)) >> shift;
            // Past the last filter: never -1, never +1, so that the bits are 0.
            std::fill(row + filters.filters, row + padded, table ? INT32_MIN : INT32_MAX);
        }
    }
}

void ConvolutionPlan::find_thresholds(int64_t pixel, int64_t size, RunThresholds &to) const {
    const int64_t patterns_across = across_.ranges.size(), table = (ternary_levels ? 2 : 1) * filters.padded;
    for_each_row(pixel, size, [&](int64_t, int64_t row, int64_t column, int64_t done, int64_t count) {
        for (int64_t p = 0; p < count; ++p) {
            const int64_t pattern =
                corrected_ ? down_.range_of[row] * patterns_across + across_.range_of[column + p] : 0;
            to[done + p] = &thresholds_[pattern * table];
        }
    });
}

// Pointers to the words under one tap of `size` neighbouring pixels, the first at (row, column) of the image, which
// may be padding; `line` is the image's row in words.
void ConvolutionPlan::point(const uint32_t **to, int64_t row, int64_t column, int size, int64_t line) const {
    const int64_t stride = window.stride[1], on_row = row < 0 || row >= images.height ? 0 : images.width;
    int first = 0, last = size;  // on the image
    while (last > 0 && column + (last - 1) * stride >= on_row) --last;
    while (first < last && column + first * stride < 0) ++first;
    for (int plane = 0; plane < planes; ++plane, to += kPixels, line += plane_words) {
        const uint32_t *padded = padding.data() + plane * pixel_words;
        for (int p = 0; p < first; ++p) to[p] = padded;
        const uint32_t *at = input + (line + (column + first * stride) * pixel_words);
        for (int p = first; p < last; ++p, at += stride * pixel_words) to[p] = at;
        for (int p = last; p < size; ++p) to[p] = padded;
    }
}

void ConvolutionPlan::find_pixels(int64_t pixel, int64_t size, std::vector<const uint32_t *> &x) const {
    x.resize(filters.rows * filters.columns * planes * kPixels);
    for_each_row(pixel, size, [&](int64_t image, int64_t row, int64_t column, int64_t done, int64_t count) {
        const int64_t top = row * window.stride[0] - window.padding[0];
        const int64_t left = column * window.stride[1] - window.padding[1];
        const uint32_t **to = x.data() + done;
        for (int64_t i = 0; i < filters.rows; ++i) {
            const int64_t y = top + i * window.dilation[0];
            const int64_t line = (image * images.height + y) * images.width * pixel_words;
            for (int64_t j = 0; j < filters.columns; ++j, to += planes * kPixels)
                point(to, y, left + j * window.dilation[1], static_cast<int>(count), line);
        }
    });
}

ProductTile ConvolutionPlan::tile(const FilterBlock &block, int64_t pixel, int64_t size,
                                  const int32_t *const *thresholds, int32_t *sums) const {
    ProductTile tile{};
    tile.ternary_x = images.ternary;
    tile.ternary_w = filters.ternary;
    tile.registers = block.registers;
    tile.pixels = size;
    tile.taps = filters.rows * filters.columns;
    tile.words = block.words;
    tile.depth = block.depth;
    tile.first_word = block.first_word;
    tile.weights = filters.weights.get() + block.start;
    tile.thresholds = thresholds;
    tile.first_filter = block.first_filter;
    tile.high_stride = filters.padded;
    tile.flip = flip_.data() + block.first_filter / 16;
    tile.filters = block.filters;
    const int64_t pieces = 4 * ceil_div(filters.filters, 64);
    if (levels) {
        tile.levels = static_cast<uint16_t *>(out) + pixel * pieces + block.first_filter / 16;
        tile.levels_stride = pieces;
        tile.levels_plane = ternary_levels ? pixels * pieces : 0;
    } else {
        tile.sums = (sums ? sums : static_cast<int32_t *>(out) + pixel * filters.filters) + block.first_filter;
        tile.sums_stride = filters.filters;
    }
    return tile;
}

void ConvolutionPlan::clear_rest(int64_t pixel, int64_t size) const {
    const int64_t written = filters.padded / 16, pieces = 4 * ceil_div(filters.filters, 64);
    if (!levels || written == pieces) return;
    auto to = static_cast<uint16_t *>(out);
    for (int plane = 0; plane <= ternary_levels; ++plane)
        for (int64_t p = plane * pixels + pixel; p < plane * pixels + pixel + size; ++p)
            std::fill(to + p * pieces + written, to + (p + 1) * pieces, uint16_t{0});
}

}  // namespace hypersign
