#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gradient/gradient.hpp"
#include "integers.hpp"
#include "parallel.hpp"

namespace hypersign {
namespace {

constexpr int64_t kCache = 256 * 1024;        // bytes of tables per tile: half of a core's L2 cache
constexpr int64_t kRound = 2 << 20;           // bytes of pixels' indices per round
constexpr int64_t kPiece = 128;               // tables of pixels whose indices and tables fit in the L1 cache
constexpr int64_t kRow = kPiece * kTable + 64;  // bytes from filter to filter; a power of two would share cache sets

// A thread's own memory for one purpose, kept from call to call, since fresh pages cost more than the work on them;
// aligned to cache lines.
struct Tables;
struct Indices;
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

void input_gradient(const GradientShape &s, const int8_t *q, const float *scales, const uint64_t *words, float *out,
                    int threads) {
    const GradientKernels &kernels = *current_kernels().gradient;
    if (s.filters == 0) {
        std::fill(out, out + s.images * s.height * s.width * s.channels, 0.0f);
        return;
    }
    const int64_t taps = s.kernel[0] * s.kernel[1], blocks = ceil_div(s.channels, kBlock);
    const int64_t tables = ceil_div(s.filters, kNumbers), row_words = ceil_div(taps * s.channels, 64);

    // Indices: [block][plane][tap][eight filters].
    const int64_t runs = s.planes * taps;
    uint8_t *const indices = scratch<Indices>(blocks * runs * tables * kIndices);
    std::vector<int32_t> signs(static_cast<size_t>(blocks * runs * kBlock), 0);
    parallel_for(blocks * runs, threads, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t plane = i / taps % s.planes, at = i % taps * s.channels + i / runs * kBlock;
            for (int64_t t = 0; t < tables; ++t) {
                uint32_t eight[kNumbers] = {};
                for (int64_t j = 0; j < kNumbers && kNumbers * t + j < s.filters; ++j) {
                    const uint64_t *row = words + (kNumbers * t + j) * row_words;
                    eight[j] = bits_at(row, row_words, at);
                    if (s.planes == 2)
                        eight[j] = choice(plane, eight[j], bits_at(row + s.filters * row_words, row_words, at));
                }
                kernels.spread(eight, indices + (i * tables + t) * kIndices, signs.data() + i * kBlock);
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
                            kernels.build(q8, cells + t * kTable, kTable);
                        }
                    }
            const int64_t pixels = images * height * s.width;
            cells_of.clear();
            for (int64_t n = 0; n < images; ++n)
                for (int64_t r = 0; r < height; ++r)
                    for (int64_t c = 0; c < s.width; ++c)
                        cells_of.push_back(grid + n * grid_bytes + r * line + c * cell);
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
                const int64_t channels = std::min(kBlock, s.channels - block * kBlock);
                float *to = out + (image * s.height + top) * s.width * s.channels + block * kBlock;
                for (int64_t p = 0; p < pixels; p += kRows) {
                    int32_t sums[kRows][kBlock];
                    const int64_t rows = std::min(kRows, pixels - p);
                    kernels.look(cells_of.data() + p, rows, segments.data(), static_cast<int64_t>(segments.size()),
                                 sums);
                    for (int64_t r = 0; r < rows; ++r, to += s.channels) {
                        const float scale = scales[image + (p + r) / (height * s.width)] * factor;
                        for (int64_t c = 0; c < channels; ++c)
                            to[c] = static_cast<float>(sums[r][c] - bias[c]) * scale;
                    }
                }
            }
        }
    });
}

void weight_gradient(const GradientShape &s, const int8_t *q, const float *scales, const uint64_t *x,
                     int64_t pad_value, float *out, int threads) {
    const GradientKernels &kernels = *current_kernels().gradient;
    if (s.filters == 0) return;
    const int64_t taps = s.kernel[0] * s.kernel[1], words = ceil_div(s.channels, 64);
    const int64_t blocks = ceil_div(s.channels, kBlock);
    const int64_t pixels = s.images * s.rows * s.columns, plane_words = s.images * s.height * s.width * words;
    const int64_t wide = std::min(kBuild, s.filters);  // filters of a tile
    // Few filters leave few tiles: then taps and blocks of channels are shared out too, at the price of tables built
    // more than once.
    const int64_t tiles = ceil_div(s.filters, wide), shares = std::min(blocks * taps, ceil_div(4 * threads, tiles));
    const float factor = s.planes == 2 ? 0.5f : 1.0f;
    struct Corner {  // where the window of an output pixel starts
        int64_t image, row, column;
    };
    static thread_local std::vector<Corner> kept;
    std::vector<Corner> &corners = kept;  // the caller's, for all threads
    corners.clear();
    corners.reserve(static_cast<size_t>(pixels));
    for (int64_t n = 0; n < s.images; ++n)
        for (int64_t r = 0; r < s.rows; ++r)
            for (int64_t c = 0; c < s.columns; ++c)
                corners.push_back({n, r * s.stride[0] - s.padding[0], c * s.stride[1] - s.padding[1]});
    struct Tap {
        int64_t row, column;
    };
    const auto tap_of = [&](int64_t tap) -> Tap {
        return {tap / s.kernel[1] * s.dilation[0], tap % s.kernel[1] * s.dilation[1]};
    };
    const auto source = [&](int64_t pixel, Tap tap) -> int64_t {  // which pixel a tap reads; -1: a padded one
        const Corner &corner = corners[static_cast<size_t>(pixel)];
        const int64_t row = corner.row + tap.row, column = corner.column + tap.column;
        if (row < 0 || column < 0 || row >= s.height || column >= s.width) return -1;
        return (corner.image * s.height + row) * s.width + column;
    };
    if (pixels == 0) std::fill(out, out + s.filters * taps * s.channels, 0.0f);

    // Binary words have no 0: where zeros are padded, +1 is read, and what that adds is taken off at the end.
    std::vector<int32_t> border(static_cast<size_t>(taps * s.filters), 0);
    if (s.planes == 1 && !pad_value && (s.padding[0] || s.padding[1]))
        parallel_for(taps, threads, [&](int64_t first, int64_t last) {
            for (int64_t i = first; i < last; ++i) {
                const Tap tap = tap_of(i);
                int32_t *sums = border.data() + i * s.filters;
                for (int64_t p = 0; p < pixels; ++p)
                    if (source(p, tap) < 0)
                        for (int64_t f = 0; f < s.filters; ++f) sums[f] += q[p * s.filters + f];
            }
        });

    // Pixels are taken in pieces of kPiece tables, and as many pieces at once as leave their indices in the caches:
    // threads wait for one another twice a round.
    const int64_t runs = blocks * taps, piece = runs * s.planes * kPiece * kIndices;
    const int64_t pieces = ceil_div(pixels, kNumbers * kPiece);
    const int64_t together = std::max<int64_t>(1, std::min(kRound / piece, pieces));
    uint8_t *const indices = scratch<Indices>(together * piece);
    std::vector<int32_t> signs(static_cast<size_t>(together * runs * kBlock));
    for (int64_t round = 0; round < pieces; round += together) {
        const int64_t stop = std::min(round + together, pieces);
        // Indices: [piece][block][tap][plane][eight pixels].
        parallel_for((stop - round) * runs, threads, [&](int64_t first, int64_t last) {
            for (int64_t i = first; i < last; ++i) {
                const int64_t start = (round + i / runs) * kNumbers * kPiece;
                const int64_t count = std::min(kNumbers * kPiece, pixels - start);
                const int64_t block = i % runs / taps, word = block * kBlock / 64, shift = block * kBlock % 64;
                const Tap tap = tap_of(i % taps);
                int32_t *sum = signs.data() + i * kBlock;
                std::fill(sum, sum + kBlock, 0);
                for (int64_t plane = 0; plane < s.planes; ++plane)
                    for (int64_t t = 0; t < ceil_div(count, kNumbers); ++t) {
                        uint32_t eight[kNumbers] = {};
                        for (int64_t j = 0; j < kNumbers && kNumbers * t + j < count; ++j) {
                            const int64_t from = source(start + kNumbers * t + j, tap);
                            const uint64_t *at = x + std::max<int64_t>(from, 0) * words + word;
                            const auto bits = static_cast<uint32_t>(*at >> shift);
                            if (s.planes == 1)
                                eight[j] = from < 0 ? 0 : bits;
                            else if (from < 0)
                                eight[j] = pad_value ? 0 : choice(plane, 0, 0);
                            else
                                eight[j] = choice(plane, bits, static_cast<uint32_t>(at[plane_words] >> shift));
                        }
                        kernels.spread(eight, indices + ((i * s.planes + plane) * kPiece + t) * kIndices, sum);
                    }
            }
        });
        parallel_for(tiles * shares, threads, [&](int64_t first, int64_t last) {
            uint8_t *const built = scratch<Tables>(kBuild * kRow);
            for (int64_t item = first; item < last; ++item)
                for (int64_t part = round; part < stop; ++part) {
                    const int64_t share = item % shares, filter = item / shares * wide;
                    const int64_t filters = std::min(wide, s.filters - filter);
                    const int64_t start = part * kNumbers * kPiece, count = std::min(kNumbers * kPiece, pixels - start);
                    const int64_t tables = ceil_div(count, kNumbers);
                    for (int64_t t = 0; t < tables; ++t) {
                        int8_t eight[kNumbers][kBuild] = {};
                        for (int64_t j = 0; j < kNumbers && kNumbers * t + j < count; ++j)
                            std::memcpy(eight[j], q + (start + kNumbers * t + j) * s.filters + filter,
                                        static_cast<size_t>(filters));
                        kernels.build(eight, built + t * kTable, kRow);
                    }
                    for (int64_t i = runs * share / shares; i < runs * (share + 1) / shares; ++i) {
                        const int64_t tap = i % taps, block = i / taps;
                        const int64_t channels = std::min(kBlock, s.channels - block * kBlock);
                        Segment segments[2 * kPiece / kFlush];
                        int64_t number = 0;
                        for (int64_t plane = 0; plane < s.planes; ++plane)
                            for (int64_t t = 0; t < tables; t += kFlush)
                                segments[number++] = {
                                    t * kTable,
                                    indices + ((((part - round) * runs + i) * s.planes + plane) * kPiece + t) * kIndices,
                                    std::min(kFlush, tables - t)};
                        const int32_t *sign = signs.data() + ((part - round) * runs + i) * kBlock;
                        for (int64_t f = 0; f < filters; f += kRows) {
                            const uint8_t *from[kRows];
                            for (int64_t r = 0; r < kRows; ++r) from[r] = built + std::min(f + r, filters - 1) * kRow;
                            int32_t sums[kRows][kBlock];
                            const int64_t rows = std::min(kRows, filters - f);
                            kernels.look(from, rows, segments, number, sums);
                            for (int64_t r = 0; r < rows; ++r) {
                                const float scale = scales[filter + f + r] * factor;
                                const int32_t padded = border[static_cast<size_t>(tap * s.filters + filter + f + r)];
                                float *to = out + ((filter + f + r) * taps + tap) * s.channels + block * kBlock;
                                // Integers until the last piece, so exact below 2^24.
                                for (int64_t c = 0; c < channels; ++c) {
                                    const int32_t exact = sums[r][c] - static_cast<int32_t>(kTableBias) * sign[c];
                                    const float sum = static_cast<float>(exact) + (part ? to[c] : 0.0f);
                                    to[c] = part + 1 < pieces ? sum : (sum - static_cast<float>(padded)) * scale;
                                }
                            }
                        }
                    }
                }
        });
    }
}

}  // namespace hypersign
