// The loops, compiled for each instruction set by itself. `Local` must be local to the file that includes this, so that
// its code is never shared with that of another; Local::compare(x, clip, minus, inside) gives the bits of 16
// numbers, and Local::stream(to, vector) stores 16 past the caches.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "independent.hpp"
#include "training/training.hpp"

namespace hypersign {

template <class Local>
struct TrainingLoops {
    typedef float Vector __attribute__((vector_size(64)));
    // The same vector, wherever it lies in memory.
    typedef Vector Unaligned __attribute__((aligned(4), may_alias));
    typedef int32_t Integers __attribute__((vector_size(64)));
    typedef uint32_t Naturals __attribute__((vector_size(64)));
    typedef uint8_t Bytes __attribute__((vector_size(16)));
    typedef Bytes UnalignedBytes __attribute__((aligned(1), may_alias));

    static Vector load(const float *x) { return *reinterpret_cast<const Unaligned *>(x); }
    static void store(float *to, Vector x) { *reinterpret_cast<Unaligned *>(to) = x; }
    static Vector all(float x) { return Vector{} + x; }
    // A load of numbers that come from memory in order: the processor's own prefetching stops at each page.
    static Vector next(const float *x) {
        __builtin_prefetch(x + 1024);
        return load(x);
    }

    // Calls work(first channel, vectors) for blocks of channels whose sums stay in registers; returns the channels that
    // are left, fewer than 16.
    template <class Work>
    static int64_t blocks(int64_t channels, const Work &work) {
        int64_t c = 0;
        for (; channels - c >= 128; c += 128) work(c, std::integral_constant<int, 8>{});
        if (channels - c >= 64) work(c, std::integral_constant<int, 4>{}), c += 64;
        if (channels - c >= 32) work(c, std::integral_constant<int, 2>{}), c += 32;
        if (channels - c >= 16) work(c, std::integral_constant<int, 1>{}), c += 16;
        return channels - c;
    }

    static void moments(const float *x, int64_t rows, int64_t channels, float *mean, float *rest, float *squares) {
        const auto n = static_cast<float>(rows);
        const int64_t left = blocks(channels, [&](int64_t c, auto vectors) {
            constexpr int V = decltype(vectors)::value;
            Vector middle[V] = {}, differences[V] = {}, powers[V] = {};
            for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) middle[v] += next(x + r * channels + c + 16 * v);
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) middle[v] /= all(n);
            for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) {
                    const Vector d = load(x + r * channels + c + 16 * v) - middle[v];
                    differences[v] += d;
                    powers[v] += d * d;
                }
            for (int v = 0; v < V; ++v) {
                store(mean + c + 16 * v, middle[v]);
                store(rest + c + 16 * v, differences[v]);
                store(squares + c + 16 * v, powers[v]);
            }
        });
        for (int64_t c = channels - left; c < channels; ++c) {
            mean[c] = rest[c] = squares[c] = 0;
            for (int64_t r = 0; r < rows; ++r) mean[c] += x[r * channels + c];
            mean[c] /= n;
            for (int64_t r = 0; r < rows; ++r) {
                const float d = x[r * channels + c] - mean[c];
                rest[c] += d;
                squares[c] += d * d;
            }
        }
    }

    static void normalize(const float *x, int64_t rows, int64_t channels, const float *mean, const float *scale,
                          const float *shift, bool stream, float *y) {
        for (int64_t r = 0; r < rows; ++r) {
            const float *row = x + r * channels;
            float *to = y + r * channels;
            if (stream) {
                for (int64_t c = 0; c < channels; c += 16)
                    Local::stream(to + c, (next(row + c) - load(mean + c)) * load(scale + c) + load(shift + c));
                continue;
            }
            HYPERSIGN_INDEPENDENT
            for (int64_t c = 0; c < channels; ++c) to[c] = (row[c] - mean[c]) * scale[c] + shift[c];
        }
    }

    static void sums(const float *g, const float *x, int64_t rows, int64_t channels, const float *mean, float *plain,
                     float *times) {
        const int64_t left = blocks(channels, [&](int64_t c, auto vectors) {
            constexpr int V = decltype(vectors)::value;
            Vector middle[V], sum[V] = {}, weighted[V] = {};
            for (int v = 0; v < V; ++v) middle[v] = load(mean + c + 16 * v);
            for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) {
                    const int64_t at = r * channels + c + 16 * v;
                    const Vector gradient = next(g + at);
                    sum[v] += gradient;
                    weighted[v] += gradient * (next(x + at) - middle[v]);
                }
            for (int v = 0; v < V; ++v) {
                store(plain + c + 16 * v, sum[v]);
                store(times + c + 16 * v, weighted[v]);
            }
        });
        for (int64_t c = channels - left; c < channels; ++c) {
            plain[c] = times[c] = 0;
            for (int64_t at = c; at < rows * channels; at += channels) {
                plain[c] += g[at];
                times[c] += g[at] * (x[at] - mean[c]);
            }
        }
    }

    static void gradient(const float *g, const float *x, int64_t rows, int64_t channels, const float *mean,
                         const float *scale, const float *plain, const float *times, bool stream, float *out) {
        for (int64_t r = 0; r < rows; ++r) {
            const float *row = x + r * channels, *gradient = g + r * channels;
            float *to = out + r * channels;
            if (stream) {
                for (int64_t c = 0; c < channels; c += 16) {
                    const Vector centred = next(row + c) - load(mean + c);
                    Local::stream(to + c, ((next(gradient + c) - load(plain + c)) - centred * load(times + c)) *
                                              load(scale + c));
                }
                continue;
            }
            HYPERSIGN_INDEPENDENT
            for (int64_t c = 0; c < channels; ++c)
                to[c] = ((gradient[c] - plain[c]) - (row[c] - mean[c]) * times[c]) * scale[c];
        }
    }

    // `right` where u > 0, else `left`. The sign bit of u or of its bits less one says so; a comparison of such long
    // vectors would be compiled number by number.
    static Vector choose(Vector u, Vector right, Vector left) {
        const auto bits = reinterpret_cast<Naturals>(u);
        const Integers rest = reinterpret_cast<Integers>(bits | (bits - 1)) >> 31;
        return reinterpret_cast<Vector>((reinterpret_cast<Integers>(right) & ~rest) |
                                        (reinterpret_cast<Integers>(left) & rest));
    }

    static void slopes(const Slopes &task, const float *x, int64_t rows, bool stream, float *y) {
        const int64_t channels = task.channels;
        for (int64_t r = 0; r < rows; ++r) {
            const float *row = x + r * channels;
            float *to = y + r * channels;
            int64_t c = 0;
            for (; c + 16 <= channels; c += 16) {
                const Vector u = next(row + c) + load(task.before + c);
                const Vector slope = choose(u, load(task.right + c), load(task.left + c));
                const Vector result = slope * u + load(task.after + c);
                if (stream)
                    Local::stream(to + c, result);
                else
                    store(to + c, result);
            }
            for (; c < channels; ++c) {
                const float u = row[c] + task.before[c];
                to[c] = (u > 0 ? task.right[c] : task.left[c]) * u + task.after[c];
            }
        }
    }

    static void slopes_gradient(const Slopes &task, const float *g, const float *x, int64_t rows, bool stream,
                                float *to_x, float *to_pieces) {
        const int64_t channels = task.channels;
        float *to_before = to_pieces, *to_left = to_before + channels, *to_right = to_left + channels;
        float *to_after = to_right + channels;
        int64_t c = 0;
        for (; c + 16 <= channels; c += 16) {
            const Vector before = load(task.before + c), left = load(task.left + c), right = load(task.right + c);
            Vector shifted{}, below{}, above{}, plain{};
            for (int64_t at = c; at < rows * channels; at += channels) {
                const Vector u = next(x + at) + before, gradient = next(g + at), product = gradient * u;
                const Vector result = gradient * choose(u, right, left);
                shifted += result;
                below += choose(u, Vector{}, product);
                above += choose(u, product, Vector{});
                plain += gradient;
                if (stream)
                    Local::stream(to_x + at, result);
                else
                    store(to_x + at, result);
            }
            store(to_before + c, shifted);
            store(to_left + c, below);
            store(to_right + c, above);
            store(to_after + c, plain);
        }
        for (; c < channels; ++c) {
            to_before[c] = to_left[c] = to_right[c] = to_after[c] = 0;
            for (int64_t at = c; at < rows * channels; at += channels) {
                const float u = x[at] + task.before[c], product = g[at] * u;
                const float result = g[at] * (u > 0 ? task.right[c] : task.left[c]);
                to_before[c] += result;
                (u > 0 ? to_right : to_left)[c] += product;
                to_after[c] += g[at];
                to_x[at] = result;
            }
        }
    }

    static void pool(const float *const *pixels, int64_t count, int64_t channels, float *y, uint8_t *place) {
        const float *first = pixels[0];
        for (int64_t c = 0; c < channels; ++c) y[c] = first[c];
        for (int64_t c = 0; c < channels; ++c) place[c] = 0;
        for (int64_t k = 1; k < count; ++k) {
            const float *pixel = pixels[k];
            HYPERSIGN_INDEPENDENT
            for (int64_t c = 0; c < channels; ++c) {
                const bool larger = pixel[c] > y[c] || pixel[c] != pixel[c];
                y[c] = larger ? pixel[c] : y[c];
                place[c] = larger ? static_cast<uint8_t>(k) : place[c];
            }
        }
    }

    static void unpool(const float *g, const uint8_t *place, uint8_t wanted, int64_t channels, bool stream,
                       float *out) {
        if (stream) {
            for (int64_t c = 0; c < channels; c += 16) {
                const Bytes places = *reinterpret_cast<const UnalignedBytes *>(place + c);
                const Integers chosen = __builtin_convertvector(places == wanted, Integers);
                Local::stream(out + c, reinterpret_cast<Vector>(reinterpret_cast<Integers>(load(g + c)) & chosen));
            }
            return;
        }
        HYPERSIGN_INDEPENDENT
        for (int64_t c = 0; c < channels; ++c) out[c] = place[c] == wanted ? g[c] : 0.0f;
    }

    static void unpool_bytes(const int8_t *q, const uint8_t *place, uint8_t wanted, int64_t channels, int8_t *out) {
        int64_t c = 0;
        for (; c + 16 <= channels; c += 16) {
            const Bytes chosen = reinterpret_cast<Bytes>(*reinterpret_cast<const UnalignedBytes *>(place + c) == wanted);
            const Bytes numbers = *reinterpret_cast<const UnalignedBytes *>(q + c);
            *reinterpret_cast<UnalignedBytes *>(out + c) = numbers & chosen;
        }
        for (; c < channels; ++c) out[c] = place[c] == wanted ? q[c] : int8_t{0};
    }

    static void to_floats(const int32_t *x, int64_t n, bool stream, float *y) {
        if (stream) {
            for (int64_t i = 0; i < n; i += 16) {
                Integers numbers;
                std::memcpy(&numbers, x + i, sizeof numbers);
                Local::stream(y + i, __builtin_convertvector(numbers, Vector));
            }
            return;
        }
        for (int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(x[i]);
    }

    static void pack(const float *x, int64_t n, float clip, uint64_t *minus, uint64_t *inside) {
        int64_t start = 0;
        for (; start + 64 <= n; start += 64) {
            uint32_t less[4], within[4];
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) {
                __builtin_prefetch(x + start + 16 * k + 1024);  // as `next`
                Local::compare(x + start + 16 * k, clip, less[k], within[k]);
            }
            const auto joined = [](const uint32_t *bits) {
                return static_cast<uint64_t>(bits[2] | bits[3] << 16) << 32 | (bits[0] | bits[1] << 16);
            };
            *minus++ = joined(less);
            *inside++ = joined(within);
        }
        if (start == n) return;
        uint64_t below = 0, between = 0;
        for (int64_t i = start; i < n; i += 16) {
            const int64_t count = std::min<int64_t>(16, n - i);
            uint32_t less, within;
            float rest[16] = {};
            std::memcpy(rest, x + i, static_cast<size_t>(count) * sizeof(float));
            Local::compare(rest, clip, less, within);
            below |= static_cast<uint64_t>(less) << (i - start);
            between |= static_cast<uint64_t>(within & ((1u << count) - 1)) << (i - start);
        }
        *minus = below;
        *inside = between;
    }

    static float sum(Vector x) {
        float total = 0;
        for (int i = 0; i < 16; ++i) total += x[i];
        return total;
    }

    static float squares(const float *x, int64_t n) {
        Vector totals[4] = {};
        int64_t i = 0;
        for (; i + 64 <= n; i += 64)
            for (int k = 0; k < 4; ++k) {
                const Vector numbers = next(x + i + 16 * k);
                totals[k] += numbers * numbers;
            }
        float total = sum(totals[0] + totals[1] + (totals[2] + totals[3]));
        for (; i < n; ++i) total += x[i] * x[i];
        return total;
    }

    static float adam(const Adam &adam, const float *g, int64_t n, float *w, float *m, float *v) {
        constexpr int64_t kCached = 1024;  // numbers whose squares are summed from the cache
        const auto clip = [](float x, float limit) { return x < -limit ? -limit : x > limit ? limit : x; };
        float total = 0;
        for (int64_t start = 0; start < n; start += kCached) {
            const int64_t end = std::min(n, start + kCached);
            HYPERSIGN_INDEPENDENT
            for (int64_t i = start; i < end; ++i) {
                const float gradient = clip(g[i], adam.clip) + w[i] * adam.decay;
                m[i] += (gradient - m[i]) * adam.first;
                v[i] = v[i] * adam.keep + gradient * adam.second * gradient;
                const float divisor = std::sqrt(v[i]) * adam.correction + adam.epsilon;
                w[i] = clip(w[i] * adam.shrink - m[i] * adam.step / divisor, adam.limit);
            }
            total += squares(w + start, end - start);
        }
        return total;
    }

    static constexpr TrainingKernels kernels{moments, normalize, sums,         gradient, slopes,    slopes_gradient,
                                             pool,    unpool,    unpool_bytes, pack,     to_floats, adam,
                                             squares};
};

}  // namespace hypersign
