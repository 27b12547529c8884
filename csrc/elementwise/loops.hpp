// The loops, compiled for each instruction set by itself. `Local` must be local to the file that includes this, so that
// its code is never shared with that of another; Local::below(x, limit, unordered) gives the bits x < limit of 16
// numbers, and adds to `unordered` whether one is NaN.
#pragma once
#include "elementwise/elementwise.hpp"
#include "independent.hpp"

namespace hypersign {

template <class Local>
struct ElementwiseLoops {
    template <class T>
    static void affine(const T *x, const float *scale, const float *shift, int64_t period, float *y, int64_t n) {
        for (int64_t start = 0; start < n; start += period) {
            const int64_t count = n - start < period ? n - start : period;
            const T *from = x + start;
            float *to = y + start;
            HYPERSIGN_INDEPENDENT
            for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]) * scale[i] + shift[i];
        }
    }

    template <class T>
    static void affine_add(const T *x, const float *scale, const float *shift, int64_t period, const float *other,
                           float *y, int64_t n) {
        for (int64_t start = 0; start < n; start += period) {
            const int64_t count = n - start < period ? n - start : period;
            const T *from = x + start;
            const float *more = other + start;
            float *to = y + start;
            HYPERSIGN_INDEPENDENT
            for (int64_t i = 0; i < count; ++i)
                to[i] = (static_cast<float>(from[i]) * scale[i] + shift[i]) + more[i];
        }
    }

    static void add(const float *a, const float *b, float *y, int64_t n) {
        HYPERSIGN_INDEPENDENT
        for (int64_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
    }

    static void clip(const float *x, float low, float high, float *y, int64_t n) {
        HYPERSIGN_INDEPENDENT
        for (int64_t i = 0; i < n; ++i) {
            const float raised = x[i] < low ? low : x[i];
            y[i] = raised > high ? high : raised;
        }
    }

    static void outer(const float *x, const float *scale, int64_t channels, float *y, int64_t pixels) {
        for (int64_t p = 0; p < pixels; ++p, y += channels) {
            const float factor = x[p];
            HYPERSIGN_INDEPENDENT
            for (int64_t i = 0; i < channels; ++i) y[i] = factor * scale[i];
        }
    }

    static bool levels(const float *x, const float *low, const float *high, const uint64_t *flip, uint64_t *sign,
                       uint64_t *nonzero, int64_t pixels, int64_t channels) {
        if (high) return rows<true, false>(x, low, high, flip, sign, nonzero, pixels, channels);
        if (channels % 16) return rows<false, false>(x, low, high, flip, sign, nonzero, pixels, channels);
        return rows<false, true>(x, low, high, flip, sign, nonzero, pixels, channels);
    }

    // `whole`: channels come in sixteens.
    template <bool ternary, bool whole>
    static bool rows(const float *x, const float *low, const float *high, const uint64_t *flip, uint64_t *sign,
                     uint64_t *nonzero, int64_t pixels, int64_t channels) {
        bool unordered = false;
        for (int64_t p = 0; p < pixels; ++p, x += channels)
            for (int64_t start = 0; start < channels; start += 64) {
                uint64_t minus = 0, at_least_high = 0;
                for (int64_t i = start; i < channels && i < start + 64; i += 16) {
                    const int64_t count = channels - i;
                    if (whole || count >= 16) {
                        minus |= static_cast<uint64_t>(Local::below(x + i, low + i, unordered)) << (i - start);
                        if (ternary)
                            at_least_high |= static_cast<uint64_t>(~Local::below(x + i, high + i, unordered) & 0xffffu)
                                             << (i - start);
                        continue;
                    }
                    float rest[16] = {};  // the last register: zeros beside its numbers, whose bits are cleared
                    for (int64_t k = 0; k < count; ++k) rest[k] = x[i + k];
                    const uint32_t valid = (1u << count) - 1;
                    minus |= static_cast<uint64_t>(Local::below(rest, low + i, unordered) & valid) << (i - start);
                    if (ternary)
                        at_least_high |= static_cast<uint64_t>(~Local::below(rest, high + i, unordered) & valid)
                                         << (i - start);
                }
                const uint64_t negated = flip[start / 64];
                if (!ternary) {
                    *sign++ = minus ^ negated;
                    continue;
                }
                *nonzero++ = minus | at_least_high;
                *sign++ = (minus ^ negated) & (minus | at_least_high);
            }
        return unordered;
    }

    static void mean(const float *const *rows, int64_t count, float divisor, float *y, int64_t n) {
        if (count == 1) {
            for (int64_t i = 0; i < n; ++i) y[i] = rows[0][i] / divisor;
            return;
        }
        const float *first = rows[0], *second = rows[1];
        HYPERSIGN_INDEPENDENT
        for (int64_t i = 0; i < n; ++i) y[i] = first[i] + second[i];
        for (int64_t row = 2; row < count; ++row) add(y, rows[row], y, n);
        HYPERSIGN_INDEPENDENT
        for (int64_t i = 0; i < n; ++i) y[i] /= divisor;
    }

    static void max(const float *const *rows, int64_t count, float *y, int64_t n) {
        for (int64_t i = 0; i < n; ++i) y[i] = rows[0][i];
        for (int64_t row = 1; row < count; ++row) {
            const float *x = rows[row];
            HYPERSIGN_INDEPENDENT
            for (int64_t i = 0; i < n; ++i) y[i] = x[i] > y[i] || x[i] != x[i] ? x[i] : y[i];
        }
    }

    static constexpr ElementwiseKernels kernels{
        affine<float>, affine<int32_t>, affine<uint8_t>, affine_add<float>, affine_add<int32_t>, add, clip, outer,
        levels,        mean,            max,              nullptr};
};

}  // namespace hypersign
