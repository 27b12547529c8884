// The kernel in the vector types of GCC and Clang, eight lanes whatever the registers are: lanes are part of what is
// drawn. `Root` takes square roots, which those types do not have. It must be local to the file that includes this, so
// that its code is never shared with that of another instruction set.
#pragma once
#include <algorithm>
#include <cstring>

#include "gaussian/gaussian.hpp"

namespace hypersign {

constexpr int64_t GAUSSIAN_LANES = 8;
typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));

template <class Root>
struct Gaussian {
    static uint64_t splitmix64(uint64_t z) {
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }

    struct Generator {
        Words s0, s1, s2, s3;

        Generator(uint64_t key, uint64_t row) {
            for (uint64_t lane = 0; lane < GAUSSIAN_LANES; ++lane) {
                const uint64_t place = 2 * (row * GAUSSIAN_LANES + lane);
                const uint64_t low = splitmix64(key + (place + 1) * 0x9e3779b97f4a7c15u);
                const uint64_t high = splitmix64(key + (place + 2) * 0x9e3779b97f4a7c15u);
                s0[lane] = static_cast<uint32_t>(low);
                s1[lane] = static_cast<uint32_t>(low >> 32);
                s2[lane] = static_cast<uint32_t>(high);
                s3[lane] = static_cast<uint32_t>(high >> 32);
            }
        }

        inline Words next() {
            const Words sum = s0 + s3;
            const Words result = ((sum << 7) | (sum >> 25)) + s0;
            const Words shifted = s1 << 9;
            s2 ^= s0;
            s3 ^= s1;
            s1 ^= s2;
            s0 ^= s3;
            s2 ^= shifted;
            s3 = (s3 << 11) | (s3 >> 21);
            return result;
        }
    };

    // -2 ln U, relative error 1e-6: U = 2^e m with m in [sqrt 1/2, sqrt 2), and a polynomial for ln(m)/(m - 1).
    static inline Floats minus_two_log(Floats uniform) {
        const Ints bits = (Ints)uniform;
        const Ints e = (bits - 0x3f3504f3) >> 23;
        const Floats f = (Floats)((Words)bits - ((Words)e << 23)) - 1.0f;
        Floats p = f * 0.11896102130413055f - 0.18667852878570557f;
        p = p * f + 0.2049632966518402f;
        p = p * f - 0.24909743666648865f;
        p = p * f + 0.3331450819969177f;
        p = p * f - 0.500011146068573f;
        p = p * f + 1.0000009536743164f;
        return (p * f + __builtin_convertvector(e, Floats) * 0.6931471824645996f) * -2.0f;
    }

    static void row(const GaussianTask &task, uint64_t number, float *x, int64_t padded) {
        Generator generator(task.key, number);
        for (int64_t i = 0; i < padded; i += GAUSSIAN_STEP) {
            const Words u = generator.next(), v = generator.next();
            // 31 bits, no zero: radii up to 6.66.
            const Floats uniform = (__builtin_convertvector((Ints)(u & 0x7fffffffu), Floats) + 0.5f) * 0x1p-31f;
            const Floats radius = Root::of(minus_two_log(uniform));
            // A direction within 45 degrees of the axis; two of v's bits choose the axis and its sign.
            const Floats s = __builtin_convertvector((Ints)(v & ~3u), Floats) * 0x1p-31f;
            const Floats t = s * s;
            Floats sine = t * -3.59504520019982e-05f + 0.00249000103212893f;
            sine = sine * t - 0.08074543625116348f;
            sine = (sine * t + 0.7853981852531433f) * s;
            Floats cosine = t * -0.00031872783438302577f + 0.015849683433771133f;
            cosine = cosine * t - 0.308424174785614f;
            cosine = cosine * t + 0.9999999403953552f;
            cosine = (Floats)((Words)cosine ^ (v << 31));
            const Ints turned = (Ints)(v << 30) >> 31;
            const Floats a = (turned ? sine : cosine) * radius, b = (turned ? cosine : sine) * radius;
            std::memcpy(x + i, &a, sizeof a);
            std::memcpy(x + i + GAUSSIAN_LANES, &b, sizeof b);
        }
        std::fill(x + task.d, x + padded, 0.0f);
        if (task.scale)
            for (int64_t i = 0; i < task.d; ++i) x[i] *= task.scale[i];
    }

    static inline Floats load(const float *x) {
        Floats v;
        std::memcpy(&v, x, sizeof v);
        return v;
    }

    static inline Floats absolute(Floats x) { return (Floats)((Words)x & 0x7fffffffu); }

    static inline double sum(Floats a, Floats b) {
        double total = 0;
        for (int lane = 0; lane < GAUSSIAN_LANES; ++lane) total += double(a[lane]) + double(b[lane]);
        return total;
    }

    static void sums(const GaussianTask &task, int64_t i, const float *x, const float *last, int64_t padded) {
        constexpr int64_t piece = 2048;  // float32 sums are short, so that they are exact to 1e-7
        double size = 0, square = 0, product = 0;
        for (int64_t start = 0; start < padded; start += piece) {
            const int64_t stop = std::min(start + piece, padded);
            Floats s[2] = {}, q[2] = {}, p[2] = {};
            for (int64_t j = start; j < stop; j += 2 * GAUSSIAN_LANES)
                for (int k = 0; k < 2; ++k) {
                    const Floats value = load(x + j + k * GAUSSIAN_LANES);
                    s[k] += absolute(value);
                    q[k] += value * value;
                    p[k] += value * load(last + j + k * GAUSSIAN_LANES);
                }
            size += sum(s[0], s[1]);
            square += sum(q[0], q[1]);
            product += sum(p[0], p[1]);
        }
        task.absolute[i] = size;
        task.square[i] = square;
        if (task.product) task.product[i] = product;
        for (int64_t c = 0; c < task.counts; ++c) {
            const Floats threshold = Floats{} + task.thresholds[c];
            double above = 0, number = 0;
            for (int64_t start = 0; start < padded; start += piece) {
                const int64_t stop = std::min(start + piece, padded);
                Floats s[2] = {};
                Ints n = {};
                for (int64_t j = start; j < stop; j += 2 * GAUSSIAN_LANES)
                    for (int k = 0; k < 2; ++k) {
                        const Floats value = absolute(load(x + j + k * GAUSSIAN_LANES));
                        const Ints over = value > threshold;
                        s[k] += (Floats)((Ints)value & over);
                        n -= over;
                    }
                above += sum(s[0], s[1]);
                for (int lane = 0; lane < GAUSSIAN_LANES; ++lane) number += n[lane];
            }
            task.above[i * task.counts + c] = above;
            task.number[i * task.counts + c] = number;
        }
    }
};

}  // namespace hypersign
