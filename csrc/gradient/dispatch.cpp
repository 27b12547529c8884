#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gradient/gradient.hpp"
#include "parallel.hpp"

namespace hypersign {
namespace {

constexpr int64_t CACHE = 256 * 1024;       // bytes of tables worked on at a time: half of a core's second cache
constexpr int64_t ROW = FLUSH * TABLE + 64;  // bytes from filter to filter: a power of two would share cache sets

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// 64 bits of a row of `words` words, from bit `at` on; 0 past its end.
uint64_t bits_at(const uint64_t *row, int64_t words, int64_t at) {
    const int64_t word = at / 64, shift = at % 64;
    uint64_t bits = word < words ? row[word] >> shift : 0;
    if (shift && word + 1 < words) bits |= row[word + 1] << (64 - shift);
    return bits;
}

// The two choices of signs whose mean is a ternary level: both its sign, or +1 and -1 where it is 0.
uint64_t choice(int64_t plane, uint64_t sign, uint64_t nonzero) { return plane ? sign | ~nonzero : sign; }

uint64_t mixed(uint64_t x) {  // the last steps of splitmix64
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

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

const GradientKernels &gradient_kernels(Backend backend) {
#if defined(HYPERSIGN_X86)
    if (backend == Backend::avx2 || backend == Backend::avx512) return gradient_avx2;
#endif
    (void)backend;
    return gradient_portable;
}

void round_gradients(const float *x, int64_t images, int64_t pixels, int64_t filters, uint64_t seed, int8_t *by_image,
                     float *image_scales, int8_t *by_filter, float *filter_scales, int threads) {
    const GradientKernels &kernels = gradient_kernels(backend());
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
                const uint64_t start = mixed(seed + 0x9e3779b97f4a7c15ull * static_cast<uint64_t>(8 * n + lane + 1));
                state[lane] = static_cast<uint32_t>(start) | 1;  // never 0, which xorshift cannot leave
            }
            kernels.round(x + n * size, size, filters, image_inverses[static_cast<size_t>(n)], inverses.data(), state,
                          by_image + n * size, by_filter + n * size);
        }
    });
}

void input_gradient(const GradientShape &s, const int8_t *q, const float *scales, const uint64_t *words, float *out,
                    int threads) {
    const GradientKernels &kernels = gradient_kernels(backend());
    const int64_t taps = s.kernel[0] * s.kernel[1], tables = ceil_div(s.filters, 4), blocks = ceil_div(s.channels, BLOCK);
    const int64_t row_words = ceil_div(taps * s.channels, 64);

    // Indices: [block][plane][tap][four filters][channel].
    std::vector<uint8_t> indices(static_cast<size_t>(blocks * s.planes * taps * tables * BLOCK));
    parallel_for(blocks * s.planes * taps, threads, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t tap = i % taps, plane = i / taps % s.planes, block = i / taps / s.planes;
            const int64_t at = tap * s.channels + block * BLOCK;
            for (int64_t t = 0; t < tables; ++t) {
                uint64_t four[4] = {};
                for (int64_t j = 0; j < 4 && 4 * t + j < s.filters; ++j) {
                    const uint64_t *row = words + (4 * t + j) * row_words;
                    four[j] = bits_at(row, row_words, at);
                    if (s.planes == 2)
                        four[j] = choice(plane, four[j], bits_at(row + s.filters * row_words, row_words, at));
                }
                kernels.spread(four, indices.data() + (i * tables + t) * BLOCK);
            }
        }
    });

    // Tables lie on the grid of the inputs, widened by the kernel, where the gradient is 0: so every input has all
    // taps. A tile is some rows of one image, or some images, whose tables stay in the cache.
    const int64_t reach[2] = {(s.kernel[0] - 1) * s.dilation[0], (s.kernel[1] - 1) * s.dilation[1]};
    const int64_t grid_width = s.width + reach[1], cell = tables * TABLE, line = grid_width * cell;
    const int64_t image_bytes = (s.height + reach[0]) * line;
    const int64_t together = std::max<int64_t>(1, std::min(CACHE / image_bytes, ceil_div(s.images, 4 * threads)));
    const int64_t band = together > 1 ? s.height
                                      : std::min(s.height, std::max<int64_t>(1, CACHE / line - reach[0]));
    const int64_t bands = ceil_div(s.height, band);
    const float factor = s.planes == 2 ? 0.5f : 1.0f;
    parallel_for(ceil_div(s.images, together) * bands, threads, [&](int64_t first, int64_t last) {
        static thread_local std::vector<uint8_t> grid;
        std::vector<Segment> segments;
        for (int64_t tile = first; tile < last; ++tile) {
            const int64_t image = tile / bands * together, images = std::min(together, s.images - image);
            const int64_t top = tile % bands * band, height = std::min(band, s.height - top);
            const int64_t grid_height = height + reach[0], grid_bytes = grid_height * line;
            const size_t needed = static_cast<size_t>(images * grid_bytes + BUILD * TABLE);  // builds write in full
            if (grid.size() < needed) grid.resize(needed);
            for (int64_t n = 0; n < images; ++n)
                for (int64_t r = 0; r < grid_height; ++r)
                    for (int64_t c = 0; c < grid_width; ++c) {
                        uint8_t *cells = grid.data() + n * grid_bytes + r * line + c * cell;
                        const int64_t y = top + r - reach[0] + s.padding[0], x = c - reach[1] + s.padding[1];
                        if (y < 0 || x < 0 || y % s.stride[0] || x % s.stride[1] || y / s.stride[0] >= s.rows ||
                            x / s.stride[1] >= s.columns) {
                            std::memset(cells, TABLE_BIAS, static_cast<size_t>(cell));
                            continue;
                        }
                        const int8_t *from =
                            q + (((image + n) * s.rows + y / s.stride[0]) * s.columns + x / s.stride[1]) * s.filters;
                        for (int64_t t = 0; t < tables; t += BUILD) {
                            int8_t four[4][BUILD] = {};
                            const int64_t count = std::min<int64_t>(4 * BUILD, s.filters - 4 * t);
                            for (int64_t f = 0; f < count; ++f) four[f % 4][f / 4] = from[4 * t + f];
                            kernels.build(four, cells + t * TABLE, TABLE);
                        }
                    }
            for (int64_t block = 0; block < blocks; ++block) {
                segments.clear();
                for (int64_t plane = 0; plane < s.planes; ++plane)
                    for (int64_t tap = 0; tap < taps; ++tap) {
                        const int64_t down = reach[0] - tap / s.kernel[1] * s.dilation[0];
                        const int64_t right = reach[1] - tap % s.kernel[1] * s.dilation[1];
                        const uint8_t *index =
                            indices.data() + ((block * s.planes + plane) * taps + tap) * tables * BLOCK;
                        for (int64_t t = 0; t < tables; t += FLUSH)
                            segments.push_back({down * line + right * cell + t * TABLE, index + t * BLOCK,
                                                std::min(FLUSH, tables - t)});
                    }
                const int64_t channels = std::min(BLOCK, s.channels - block * BLOCK);
                const int64_t pixels = height * s.width, bias = s.planes * taps * tables * TABLE_BIAS;
                for (int64_t p = 0; p < images * pixels; p += 2) {
                    const uint8_t *from[2];
                    int32_t sums[2][BLOCK];
                    const int64_t rows = std::min<int64_t>(2, images * pixels - p);
                    for (int64_t r = 0; r < rows; ++r) {
                        const int64_t n = (p + r) / pixels, at = (p + r) % pixels;
                        from[r] = grid.data() + n * grid_bytes + at / s.width * line + at % s.width * cell;
                    }
                    kernels.look(from, rows, segments.data(), static_cast<int64_t>(segments.size()), channels, sums);
                    for (int64_t r = 0; r < rows; ++r) {
                        const int64_t n = image + (p + r) / pixels, at = top * s.width + (p + r) % pixels;
                        const float scale = scales[n] * factor;
                        float *to = out + (n * s.height * s.width + at) * s.channels + block * BLOCK;
                        for (int64_t c = 0; c < channels; ++c)
                            to[c] = static_cast<float>(sums[r][c] - static_cast<int32_t>(bias)) * scale;
                    }
                }
            }
        }
    });
}

void weight_gradient(const GradientShape &s, const int8_t *q, const float *scales, const uint64_t *x,
                     int64_t pad_value, float *out, int threads) {
    const GradientKernels &kernels = gradient_kernels(backend());
    const int64_t taps = s.kernel[0] * s.kernel[1], words = ceil_div(s.channels, 64), blocks = words;
    const int64_t pixels = s.images * s.rows * s.columns, plane_words = s.images * s.height * s.width * words;
    const int64_t wide = std::min(BUILD, std::max<int64_t>(2, ceil_div(s.filters, threads)));  // filters of a tile
    const float factor = s.planes == 2 ? 0.5f : 1.0f;
    const auto source = [&](int64_t pixel, int64_t tap) -> int64_t {  // which pixel a tap reads; -1: a padded one
        const int64_t n = pixel / (s.rows * s.columns), at = pixel % (s.rows * s.columns);
        const int64_t row = at / s.columns * s.stride[0] - s.padding[0] + tap / s.kernel[1] * s.dilation[0];
        const int64_t column = at % s.columns * s.stride[1] - s.padding[1] + tap % s.kernel[1] * s.dilation[1];
        if (row < 0 || column < 0 || row >= s.height || column >= s.width) return -1;
        return (n * s.height + row) * s.width + column;
    };
    if (pixels == 0) std::fill(out, out + s.filters * taps * s.channels, 0.0f);

    std::vector<uint8_t> indices(static_cast<size_t>(blocks * s.planes * taps * FLUSH * BLOCK));
    for (int64_t start = 0; start < pixels; start += 4 * FLUSH) {
        const int64_t count = std::min(4 * FLUSH, pixels - start), tables = ceil_div(count, 4);
        // Indices: [block][tap][plane][four pixels][channel].
        parallel_for(blocks * taps * s.planes, threads, [&](int64_t first, int64_t last) {
            for (int64_t i = first; i < last; ++i) {
                const int64_t plane = i % s.planes, tap = i / s.planes % taps, block = i / s.planes / taps;
                for (int64_t t = 0; t < tables; ++t) {
                    uint64_t four[4] = {};
                    for (int64_t j = 0; j < 4 && 4 * t + j < count; ++j) {
                        const int64_t from = source(start + 4 * t + j, tap);
                        const uint64_t *word = x + from * words + block;
                        if (s.planes == 1)
                            four[j] = from < 0 ? 0 : *word;  // a padded 0 is put right below
                        else if (from < 0)
                            four[j] = pad_value ? 0 : choice(plane, 0, 0);
                        else
                            four[j] = choice(plane, *word, word[plane_words]);
                    }
                    kernels.spread(four, indices.data() + (i * FLUSH + t) * BLOCK);
                }
            }
        });
        parallel_for(ceil_div(s.filters, wide), threads, [&](int64_t first, int64_t last) {
            static thread_local std::vector<uint8_t> built;
            if (built.size() < BUILD * ROW) built.resize(BUILD * ROW);
            for (int64_t tile = first; tile < last; ++tile) {
                const int64_t filter = tile * wide, filters = std::min(wide, s.filters - filter);
                for (int64_t t = 0; t < tables; ++t) {
                    int8_t four[4][BUILD] = {};
                    for (int64_t j = 0; j < 4 && 4 * t + j < count; ++j)
                        std::memcpy(four[j], q + (start + 4 * t + j) * s.filters + filter,
                                    static_cast<size_t>(filters));
                    kernels.build(four, built.data() + t * TABLE, ROW);
                }
                for (int64_t i = 0; i < blocks * taps; ++i) {
                    const int64_t tap = i % taps, block = i / taps;
                    const int64_t channels = std::min(BLOCK, s.channels - block * BLOCK);
                    Segment segments[2];
                    for (int64_t plane = 0; plane < s.planes; ++plane)
                        segments[plane] = {0, indices.data() + (i * s.planes + plane) * FLUSH * BLOCK, tables};
                    for (int64_t f = 0; f < filters; f += 2) {
                        const uint8_t *from[2] = {built.data() + f * ROW, built.data() + (f + 1) * ROW};
                        int32_t sums[2][BLOCK];
                        const int64_t rows = std::min<int64_t>(2, filters - f);
                        kernels.look(from, rows, segments, s.planes, channels, sums);
                        for (int64_t r = 0; r < rows; ++r) {
                            const float scale = scales[filter + f + r] * factor;
                            const auto bias = static_cast<int32_t>(s.planes * tables * TABLE_BIAS);
                            float *to = out + ((filter + f + r) * taps + tap) * s.channels + block * BLOCK;
                            for (int64_t c = 0; c < channels; ++c) {
                                const float sum = static_cast<float>(sums[r][c] - bias) * scale;
                                to[c] = start ? to[c] + sum : sum;
                            }
                        }
                    }
                }
            }
        });
    }
    if (s.planes == 2 || pad_value || (s.padding[0] == 0 && s.padding[1] == 0)) return;
    // A padded pixel was read as +1: take off what it added.
    parallel_for(taps, threads, [&](int64_t first, int64_t last) {
        std::vector<int32_t> sums(static_cast<size_t>(s.filters));
        for (int64_t tap = first; tap < last; ++tap) {
            std::fill(sums.begin(), sums.end(), 0);
            for (int64_t p = 0; p < pixels; ++p)
                if (source(p, tap) < 0)
                    for (int64_t f = 0; f < s.filters; ++f) sums[static_cast<size_t>(f)] += q[p * s.filters + f];
            for (int64_t f = 0; f < s.filters; ++f) {
                const float sum = static_cast<float>(sums[static_cast<size_t>(f)]) * scales[f];
                float *to = out + (f * taps + tap) * s.channels;
                for (int64_t c = 0; c < s.channels; ++c) to[c] -= sum;
            }
        }
    });
}

}  // namespace hypersign
