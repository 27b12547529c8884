#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gradient/gradient.hpp"
#include "integers.hpp"
#include "parallel.hpp"
#include "training/training.hpp"

namespace hypersign {
namespace {

constexpr int64_t kCache = 256 * 1024;        // bytes of tables per tile: half of a core's L2 cache
constexpr int64_t kRound = 10 << 20;          // bytes of pixels' indices per round
constexpr int64_t kPiece = 128;               // tables whose indices stay in the L1 cache
constexpr int64_t kPieces = 4;                // pieces per round, at most
constexpr int64_t kWide = 2 * kBuild;         // filters of a tile
constexpr int64_t kRow = kPiece * kTable + 64;  // bytes from filter to filter; a power of two would share cache sets
constexpr int64_t kPair = 2 * kNumbers;       // numbers of two tables

// A thread's own memory for one purpose, kept from call to call, since fresh pages cost more than the work on them;
// aligned to cache lines.
struct Tables;
struct Indices;
struct Sums;
template <class Purpose>
uint8_t *scratch(int64_t bytes) {
    static thread_local std::vector<uint8_t> memory;
    if (memory.size() < static_cast<size_t>(bytes) + 64) memory.resize(static_cast<size_t>(bytes) + 64);
    return memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64);
}

// 32 bits of a row of `words` words, from bit `at` on; 0 past its end.
uint32_t bits_at(const uint64_t *row, int64_t words, int64_t at) {
    const int64_t word = at / 64, shift = at % 64;
    uint64_t bits = word < words ? row[word] >> shift : 0;
    if (shift > 32 && word + 1 < words) bits |= row[word + 1] << (64 - shift);
    return static_cast<uint32_t>(bits);
}

// The two choices of signs whose mean is a ternary level: both its sign, or +1 and -1 where it is 0.
uint32_t choice(int64_t plane, uint32_t sign, uint32_t nonzero) { return plane ? sign | ~nonzero : sign; }

// Where `spread` wants number n of two tables.
constexpr int64_t place(int64_t n) { return 4 * (n % 4) + n / 4; }

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
    const bool stream = streams(out, s.images * s.height * s.width, s.channels);
    parallel_for(ceil_div(s.images, together) * bands, threads, [&](int64_t first, int64_t last) {
        std::vector<Segment> segments;
        std::vector<const uint8_t *> cells_of;  // by pixel of the tile
        for (int64_t tile = first; tile < last; ++tile) {
            const int64_t image = tile / bands * together, images = std::min(together, s.images - image);
            const int64_t top = tile % bands * band, height = std::min(band, s.height - top);
            const int64_t grid_height = height + reach[0], grid_bytes = grid_height * line;
            uint8_t *const grid = scratch<Tables>(images * grid_bytes + kBuild * kTable);  // builds write in full
            for (int64_t n = 0; n < images; ++n)
                for (int64_t r = 0; r < grid_height; ++r)
                    for (int64_t c = 0; c < grid_width; ++c) {
                        uint8_t *cells = grid + n * grid_bytes + r * line + c * cell;
                        const int64_t y = top + r - reach[0] + s.padding[0], x = c - reach[1] + s.padding[1];
                        if (y < 0 || x < 0 || y % s.stride[0] || x % s.stride[1] || y / s.stride[0] >= s.rows ||
                            x / s.stride[1] >= s.columns) {
                            std::memset(cells, kTableBias, static_cast<size_t>(cell));
                            continue;
                        }
                        const int8_t *from =
                            q + (((image + n) * s.rows + y / s.stride[0]) * s.columns + x / s.stride[1]) * s.filters;
                        for (int64_t t = 0; t < tables; t += kBuild) {
                            int8_t q8[kNumbers][kBuild], padded[kNumbers * kBuild];
                            const int8_t *part = from + kNumbers * t;
                            if (s.filters - kNumbers * t < kNumbers * kBuild) {
                                std::memset(padded, 0, sizeof padded);
                                std::memcpy(padded, part, static_cast<size_t>(s.filters - kNumbers * t));
                                part = padded;
                            }
                            kernels.split(part, q8);
                            kernels.build(q8[0], kBuild, cells + t * kTable, kTable);
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

void weight_gradient(const GradientShape &s, const int8_t *q, const float *scales, const uint64_t *x,
                     int64_t pad_value, const uint64_t *inside, float *out, int threads) {
    const GradientKernels &kernels = *current_kernels().gradient;
    if (s.filters == 0) return;
    const int64_t taps = s.kernel[0] * s.kernel[1], words = ceil_div(s.channels, 64);
    const int64_t blocks = ceil_div(s.channels, kBlock);
    const int64_t row_words = ceil_div(taps * s.channels, 64);
    const int64_t pixels = s.images * s.rows * s.columns, plane_words = s.images * s.height * s.width * words;
    if (pixels == 0) {
        std::fill(out, out + s.filters * taps * s.channels, 0.0f);
        return;
    }
    const int64_t wide = std::min(kWide, s.filters);
    // Few filters leave few tiles: then taps and blocks of channels are shared out too, at the price of tables built
    // more than once.
    const int64_t tiles = ceil_div(s.filters, wide);
    const int64_t shares = threads == 1 ? 1 : std::min(blocks * taps, ceil_div(2 * threads, tiles));
    const float factor = s.planes == 2 ? 0.5f : 1.0f;
    const bool stream = streams(out, s.filters * taps, s.channels);

    // Pixels are taken in pieces of kPiece tables, and as many pieces at once as leave their tables in the caches:
    // threads wait for one another three times a round.
    const int64_t runs = blocks * taps, piece_pixels = kNumbers * kPiece;
    const int64_t piece = runs * s.planes * kPiece * kIndices, pieces = ceil_div(pixels, piece_pixels);
    const int64_t most = std::clamp<int64_t>(kRound / piece, 1, kPieces), rounds = ceil_div(pieces, most);
    const int64_t together = ceil_div(pieces, rounds);
    uint8_t *const indices = scratch<Indices>(together * piece);
    std::vector<int32_t> signs(static_cast<size_t>(together * runs * kBlock));
    std::vector<int32_t> sources(static_cast<size_t>(together * taps * piece_pixels));
    // Binary words have no 0: where zeros are padded, +1 is read, and what that adds is taken off at the end.
    const bool padded = s.planes == 1 && !pad_value && (s.padding[0] || s.padding[1]);
    std::vector<int32_t> border(static_cast<size_t>(padded ? taps * s.filters : 0), 0);
    for (int64_t round = 0; round < pieces; round += together) {
        const int64_t stop = std::min(round + together, pieces);
        // Which pixel a tap reads, -1 for a padded one: [tap][piece][pixel].
        parallel_for(taps, threads, [&](int64_t first, int64_t last) {
            for (int64_t tap = first; tap < last; ++tap) {
                const int64_t begin = round * piece_pixels, end = std::min(pixels, stop * piece_pixels);
                const int64_t down = tap / s.kernel[1] * s.dilation[0] - s.padding[0];
                const int64_t right = tap % s.kernel[1] * s.dilation[1] - s.padding[1];
                int32_t *source = sources.data() + tap * together * piece_pixels;
                for (int64_t p = begin; p < end;) {  // rows of outputs
                    const int64_t line = p / s.columns, stop_column = std::min(s.columns, end - line * s.columns);
                    const int64_t row = line % s.rows * s.stride[0] + down;
                    const bool row_inside = row >= 0 && row < s.height;
                    const int64_t from = (line / s.rows * s.height + row) * s.width;
                    for (int64_t c = p % s.columns; c < stop_column; ++c, ++p) {
                        const int64_t column = c * s.stride[1] + right;
                        const bool inside = row_inside && column >= 0 && column < s.width;
                        *source++ = inside ? static_cast<int32_t>(from + column) : -1;
                        if (padded && !inside)
                            kernels.add(q + p * s.filters, s.filters, border.data() + tap * s.filters);
                    }
                }
            }
        });
        // Indices: [piece][block][tap][plane][sixteen pixels].
        parallel_for((stop - round) * runs, threads, [&](int64_t first, int64_t last) {
            for (int64_t i = first; i < last; ++i) {
                const int64_t part = i / runs, count = std::min(piece_pixels, pixels - (round + part) * piece_pixels);
                const int64_t block = i % runs / taps, tap = i % taps;
                const int64_t word = block * kBlock / 64, shift = block * kBlock % 64;
                const int32_t *source = sources.data() + (tap * together + part) * piece_pixels;
                int32_t *sum = signs.data() + i * kBlock;
                std::fill(sum, sum + kBlock, 0);
                for (int64_t plane = 0; plane < s.planes; ++plane)
                    for (int64_t start = 0; start < count; start += kPair) {
                        uint32_t numbers[kPair] = {};
                        const int64_t left = std::min(kPair, count - start);
                        for (int64_t j = 0; j < left; ++j) {
                            const int64_t from = source[start + j];
                            const uint64_t *at = x + (from < 0 ? 0 : from) * words + word;
                            const auto bits = static_cast<uint32_t>(*at >> shift);
                            uint32_t &number = numbers[place(j)];
                            if (s.planes == 1)
                                number = bits & ~static_cast<uint32_t>(from >> 63);
                            else if (from < 0)
                                number = pad_value ? 0 : choice(plane, 0, 0);
                            else
                                number = choice(plane, bits, static_cast<uint32_t>(at[plane_words] >> shift));
                        }
                        const int64_t t = start / kNumbers;
                        kernels.spread(numbers, indices + ((i * s.planes + plane) * kPiece + t) * kIndices, sum);
                    }
            }
        });
        parallel_for(tiles * shares, threads, [&](int64_t first, int64_t last) {
            uint8_t *const built = scratch<Tables>(together * kWide * kRow + kTable);
            for (int64_t item = first; item < last; ++item) {
                const int64_t share = item % shares, filter = item / shares * wide;
                const int64_t filters = std::min(wide, s.filters - filter);
                int64_t tables[kPieces];
                for (int64_t part = 0; part < stop - round; ++part) {
                    const int64_t start = (round + part) * piece_pixels, count = std::min(piece_pixels, pixels - start);
                    tables[part] = 2 * ceil_div(count, kPair);
                    for (int64_t f = 0; f < filters; f += kBuild)
                        for (int64_t t = 0; t < tables[part]; ++t) {
                            const int8_t *numbers = q + (start + kNumbers * t) * s.filters + filter + f;
                            const int64_t rows = std::clamp<int64_t>(count - kNumbers * t, 0, kNumbers);
                            int64_t pitch = s.filters;
                            int8_t copy[kNumbers * kBuild];
                            if (rows < kNumbers || filters - f < kBuild) {
                                std::memset(copy, 0, sizeof copy);
                                for (int64_t j = 0; j < rows; ++j)
                                    std::memcpy(copy + j * kBuild, numbers + j * pitch,
                                                static_cast<size_t>(std::min(kBuild, filters - f)));
                                numbers = copy;
                                pitch = kBuild;
                            }
                            kernels.build(numbers, pitch, built + (part * kWide + f) * kRow + t * kTable, kRow);
                        }
                }
                for (int64_t i = runs * share / shares; i < runs * (share + 1) / shares; ++i) {
                    const int64_t tap = i % taps, block = i / taps;
                    const int64_t channels = std::min(kBlock, s.channels - block * kBlock);
                    const size_t bytes = static_cast<size_t>(channels) * sizeof(float);
                    const auto at = [&](int64_t f) {
                        return ((filter + f) * taps + tap) * s.channels + block * kBlock;
                    };
                    // No prefetcher follows as many rows; they arrive during the lookups.
                    for (int64_t f = 0; f < filters && (round > 0 || !stream); ++f)
                        for (int64_t c = 0; c < channels; c += 16) __builtin_prefetch(out + at(f) + c, 1);
                    // Between rounds the output holds the sums, as integers.
                    int32_t sums[kWide][kBlock];
                    std::memset(sums, 0, sizeof sums);
                    if (round > 0)
                        for (int64_t f = 0; f < filters; ++f) std::memcpy(sums[f], out + at(f), bytes);
                    int32_t bias[kBlock] = {};
                    for (int64_t part = 0; part < stop - round; ++part) {
                        Segment segments[2 * kPiece / kFlush];
                        int64_t number = 0;
                        const uint8_t *index = indices + (part * runs + i) * s.planes * kPiece * kIndices;
                        for (int64_t plane = 0; plane < s.planes; ++plane)
                            for (int64_t t = 0; t < tables[part]; t += kFlush)
                                segments[number++] = {t * kTable, index + (plane * kPiece + t) * kIndices,
                                                      std::min(kFlush, tables[part] - t)};
                        const uint8_t *from[kWide];
                        for (int64_t f = 0; f < filters; ++f) from[f] = built + (part * kWide + f) * kRow;
                        for (int64_t f = 0; f < filters; f += kRows)
                            kernels.look(from + f, std::min(kRows, filters - f), segments, number, sums + f);
                        const int32_t *sign = signs.data() + (part * runs + i) * kBlock;
                        for (int64_t c = 0; c < kBlock; ++c) bias[c] += static_cast<int32_t>(kTableBias) * sign[c];
                    }
                    for (int64_t f = 0; f < filters; ++f) {
                        if (stop < pieces) {
                            for (int64_t c = 0; c < kBlock; ++c) sums[f][c] -= bias[c];
                            std::memcpy(out + at(f), sums[f], bytes);
                            continue;
                        }
                        if (padded) {
                            const int32_t more = border[static_cast<size_t>(tap * s.filters + filter + f)];
                            for (int64_t c = 0; c < kBlock; ++c) sums[f][c] -= more;
                        }
                        const uint32_t kept = inside ? bits_at(inside + (filter + f) * row_words, row_words,
                                                               tap * s.channels + block * kBlock)
                                                     : ~uint32_t{0};
                        kernels.write(sums[f], bias, scales[filter + f] * factor, kept, channels, stream,
                                      out + at(f));
                    }
                }
            }
        });
    }
}

}  // namespace hypersign
