#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gradient/parts.hpp"
#include "integers.hpp"
#include "parallel.hpp"
#include "training/training.hpp"

namespace hypersign {
namespace {

constexpr int64_t kCache = 256 * 1024;  // bytes of tables per tile: half of a core's L2 cache

// The factor that takes a largest magnitude to 31, and the scale that undoes it.
void factors(int32_t largest, float &inverse, float &scale) {
    float most;
    std::memcpy(&most, &largest, 4);
    const bool finite = std::isfinite(most);
    scale = finite ? most / 31 : std::numeric_limits<float>::quiet_NaN();
    inverse = finite && scale > 0 ? 31 / most : 0;
    if (!std::isfinite(inverse)) inverse = scale = 0;  // magnitudes too small to have an inverse
}

}  // namespace

void round_gradients(const float *x, int64_t images, int64_t pixels, int64_t filters, uint64_t seed, int8_t *by_image,
                     float *image_scales, int8_t *by_filter, float *filter_scales, int threads) {
    const GradientKernels &kernels = *current_kernels().gradient;
    const int64_t size = pixels * filters, parts = std::min<int64_t>(images, threads);
    std::vector<int32_t> columns(static_cast<size_t>(parts * filters), 0);
    std::vector<float> image_inverses(static_cast<size_t>(images)), inverses(static_cast<size_t>(filters));
    parallel_for(parts, threads, [&](int64_t first, int64_t last) {
        for (int64_t part = first; part < last; ++part)
            for (int64_t n = images * part / parts; n < images * (part + 1) / parts; ++n)
                factors(kernels.largest(x + n * size, size, filters, columns.data() + part * filters),
                        image_inverses[static_cast<size_t>(n)], image_scales[n]);
    });
    for (int64_t f = 0; f < filters; ++f) {
        int32_t most = 0;
        for (int64_t part = 0; part < parts; ++part)
            most = std::max(most, columns[static_cast<size_t>(part * filters + f)]);
        factors(most, inverses[static_cast<size_t>(f)], filter_scales[f]);
    }
    parallel_for(images, threads, [&](int64_t first, int64_t last) {
        for (int64_t n = first; n < last; ++n) {
            uint32_t state[8];
            for (int64_t lane = 0; lane < 8; ++lane) {
                const uint64_t start = splitmix64(seed, static_cast<uint64_t>(8 * n + lane));
                state[lane] = static_cast<uint32_t>(start) | 1;  // never 0, which xorshift cannot leave
            }
            kernels.round(x + n * size, size, filters, image_inverses[static_cast<size_t>(n)], inverses.data(), state,
                          by_image + n * size, by_filter + n * size);
        }
    });
}

void input_gradient(const GradientShape &s, const int8_t *q, const float *scales, const uint64_t *words,
                    const uint64_t *inside, float *out, int threads) {
    const GradientKernels &kernels = *current_kernels().gradient;
    if (s.filters == 0) {
        std::fill(out, out + s.images * s.height * s.width * s.channels, 0.0f);
        return;
    }
    const int64_t taps = s.kernel[0] * s.kernel[1], blocks = ceil_div(s.channels, kBlock);
    const int64_t tables = 2 * ceil_div(s.filters, kPair), row_words = ceil_div(taps * s.channels, 64);

    // Indices: [block][plane][tap][sixteen filters].
    const int64_t runs = s.planes * taps;
    uint8_t *const indices = scratch<Indices>(blocks * runs * tables * kIndices);
    std::vector<int32_t> signs(static_cast<size_t>(blocks * runs * kBlock), 0);
    parallel_for(blocks * runs, threads, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t plane = i / taps % s.planes, at = i % taps * s.channels + i / runs * kBlock;
            for (int64_t t = 0; t < tables; t += 2) {
                uint32_t numbers[kPair] = {};
                for (int64_t j = 0; j < kPair && kNumbers * t + j < s.filters; ++j) {
                    const uint64_t *row = words + (kNumbers * t + j) * row_words;
                    uint32_t &bits = numbers[place(j)];
                    bits = bits_at(row, row_words, at);
                    if (s.planes == 2)
                        bits = choice(plane, bits, bits_at(row + s.filters * row_words, row_words, at));
                }
                kernels.spread(numbers, indices + (i * tables + t) * kIndices, signs.data() + i * kBlock);
            }
        }
    });

    // Tables lie on the grid of the inputs, widened by the kernel, where the gradient is 0: so every input has all
    // taps. A tile is some rows of one image, or some images, whose tables stay in the cache.
    const int64_t reach[2] = {(s.kernel[0] - 1) * s.dilation[0], (s.kernel[1] - 1) * s.dilation[1]};
    const int64_t grid_width = s.width + reach[1], cell = tables * kTable, line = grid_width * cell;
    const int64_t image_bytes = (s.height + reach[0]) * line;
    const int64_t together = std::max<int64_t>(1, std::min(kCache / image_bytes, ceil_div(s.images, 4 * threads)));
    const int64_t band = together > 1 ? s.height
                                      : std::min(s.height, std::max<int64_t>(1, kCache / line - reach[0]));
    const int64_t bands = ceil_div(s.height, band);
    const float factor = s.planes == 2 ? 0.5f : 1.0f;
    const bool whole = s.stride[1] == 1 && s.filters % kPair == 0;  // numbers and tables of a row lie without gaps
    const bool stream = streams(out, s.images * s.height * s.width, s.channels);
    parallel_for(ceil_div(s.images, together) * bands, threads, [&](int64_t first, int64_t last) {
        std::vector<Segment> segments;
        std::vector<const uint8_t *> cells_of;  // by pixel of the tile
        for (int64_t tile = first; tile < last; ++tile) {
            const int64_t image = tile / bands * together, images = std::min(together, s.images - image);
            const int64_t top = tile % bands * band, height = std::min(band, s.height - top);
            const int64_t grid_height = height + reach[0], grid_bytes = grid_height * line;
            uint8_t *const grid = scratch<Tables>(images * grid_bytes + kBuild * kTable);  // builds write in full
            const auto build = [&](const int8_t *from, int64_t count, uint8_t *to) {  // tables of `count` numbers
                for (int64_t i = 0; i < count; i += kNumbers * kBuild) {
                    int8_t q8[kNumbers][kBuild], padded[kNumbers * kBuild];
                    const int8_t *part = from + i;
                    if (count - i < kNumbers * kBuild) {
                        std::memset(padded, 0, sizeof padded);
                        std::memcpy(padded, part, static_cast<size_t>(count - i));
                        part = padded;
                    }
                    kernels.split(part, q8);
                    kernels.build(q8[0], kBuild, to + i / kNumbers * kTable, kTable);
                }
            };
            for (int64_t n = 0; n < images; ++n)
                for (int64_t r = 0; r < grid_height; ++r) {
                    uint8_t *const cells = grid + n * grid_bytes + r * line;
                    const auto clear = [&](int64_t first, int64_t last) {
                        std::memset(cells + first * cell, kTableBias, static_cast<size_t>((last - first) * cell));
                    };
                    const int64_t y = top + r - reach[0] + s.padding[0], left = reach[1] - s.padding[1];
                    if (y < 0 || y % s.stride[0] || y / s.stride[0] >= s.rows) {
                        clear(0, grid_width);
                        continue;
                    }
                    const int8_t *const row = q + ((image + n) * s.rows + y / s.stride[0]) * s.columns * s.filters;
                    if (whole) {  // all pixels of the row at once; what is built past them is cleared or built later
                        const int64_t first = std::clamp<int64_t>(left, 0, grid_width);
                        const int64_t last = std::clamp<int64_t>(left + s.columns, first, grid_width);
                        clear(0, first);
                        build(row + (first - left) * s.filters, (last - first) * s.filters, cells + first * cell);
                        clear(last, grid_width);
                        continue;
                    }
                    for (int64_t c = 0; c < grid_width; ++c) {
                        const int64_t x = c - left;
                        if (x < 0 || x % s.stride[1] || x / s.stride[1] >= s.columns)
                            clear(c, c + 1);
                        else
                            build(row + x / s.stride[1] * s.filters, s.filters, cells + c * cell);
                    }
                }
            const int64_t pixels = images * height * s.width;
            cells_of.clear();
            for (int64_t n = 0; n < images; ++n)
                for (int64_t r = 0; r < height; ++r)
                    for (int64_t c = 0; c < s.width; ++c)
                        cells_of.push_back(grid + n * grid_bytes + r * line + c * cell);
            auto *const sums = reinterpret_cast<int32_t(*)[kBlock]>(scratch<Sums>(pixels * kBlock * 4));
            for (int64_t block = 0; block < blocks; ++block) {
                segments.clear();
                int32_t bias[kBlock] = {};
                for (int64_t i = 0; i < runs; ++i) {
                    const int64_t down = reach[0] - i % taps / s.kernel[1] * s.dilation[0];
                    const int64_t right = reach[1] - i % taps % s.kernel[1] * s.dilation[1];
                    const uint8_t *index = indices + (block * runs + i) * tables * kIndices;
                    for (int64_t t = 0; t < tables; t += kFlush)
                        segments.push_back({down * line + right * cell + t * kTable, index + t * kIndices,
                                            std::min(kFlush, tables - t)});
                    const int32_t *sign = signs.data() + (block * runs + i) * kBlock;
                    for (int64_t c = 0; c < kBlock; ++c) bias[c] += static_cast<int32_t>(kTableBias) * sign[c];
                }
                // A few segments at a time, whose indices stay in the L1 cache for all pixels.
                std::memset(sums, 0, static_cast<size_t>(pixels) * sizeof *sums);
                for (size_t first_segment = 0; first_segment < segments.size();) {
                    size_t count = 0;
                    for (int64_t space = kPiece; first_segment + count < segments.size() &&
                                                 segments[first_segment + count].tables <= space;
                         ++count)
                        space -= segments[first_segment + count].tables;
                    for (int64_t p = 0; p < pixels; p += kRows)
                        kernels.look(cells_of.data() + p, std::min(kRows, pixels - p), &segments[first_segment],
                                     static_cast<int64_t>(count), sums + p);
                    first_segment += count;
                }
                const int64_t channels = std::min(kBlock, s.channels - block * kBlock);
                const int64_t start = (image * s.height + top) * s.width, pixel_words = ceil_div(s.channels, 64);
                for (int64_t p = 0; p < pixels; ++p) {
                    const int64_t pixel = start + p;
                    const uint32_t kept =
                        inside ? bits_at(inside + pixel * pixel_words, pixel_words, block * kBlock) : ~uint32_t{0};
                    kernels.write(sums[p], bias, scales[image + p / (height * s.width)] * factor, kept, channels,
                                  stream, out + pixel * s.channels + block * kBlock);
                }
            }
        }
    });
}

}  // namespace hypersign
