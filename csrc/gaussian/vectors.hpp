// The kernel in the vector types of GCC and Clang, eight lanes whatever the registers are: lanes are part of what is
// drawn. `Machine` takes square roots and chooses by sign, which those types do not, or not in one operation. It must
// be local to the file that includes this, so that its code is never shared with that of another instruction set.
#pragma once
#include <algorithm>
#include <cstring>

#include "gaussian/gaussian.hpp"
#include "integers.hpp"

namespace hypersign {

constexpr int64_t kGaussianLanes = 8;
typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));

template <class Machine>
struct Gaussian {
    // Eight generators, one a lane.
    struct Generator {
        Words a, b, c, counter;

        Generator(uint64_t key, uint64_t row) {
            for (uint64_t lane = 0; lane < kGaussianLanes; ++lane) {
                const uint64_t place = 2 * (row * kGaussianLanes + lane);
                const uint64_t low = splitmix64(key, place);
                const uint64_t high = splitmix64(key, place + 1);
                a[lane] = static_cast<uint32_t>(low);
                b[lane] = static_cast<uint32_t>(low >> 32);
                c[lane] = static_cast<uint32_t>(high);
                counter[lane] = static_cast<uint32_t>(high >> 32);
            }
        }

        [[gnu::always_inline]] inline Words next() {
            const Words result = a + b + counter;
            counter += 1u;
            a = b ^ (b >> 9);
            b = c + (c << 3);
            c = ((c << 21) | (c >> 11)) + result;
            return result;
        }
    };

    // Sixteen normals as eight points of the plane: half the squared radius in units of ln 2, -log2 U; the place s of
    // the direction between -45 and 45 degrees of an axis; and the words whose other bits choose the axis and its
    // sign.
    struct Points {
        Floats energy, s, axis;
        Words sign;
    };

    // U = (the word's lower 31 bits, made odd)/2^31, so no zero: radii up to 6.56. U = 2^-e m with m in [1, 2), and a
    // polynomial of m - 1.5 for -log2 m, in the order that waits least: absolute error 7e-7, and never below 0.
    [[gnu::always_inline]] static inline Points points(Generator &generator) {
        const Words u = generator.next(), v = generator.next();
        const Floats uniform = __builtin_convertvector((Ints)(u | 1u), Floats);
        const Words bits = (Words)uniform & 0x7fffffffu;
        const Floats e = 158.0f - __builtin_convertvector((Ints)(bits >> 23), Floats);
        const Floats x = (Floats)((bits & 0x007fffffu) | 0x3f800000u) - 1.5f;
        const Floats q = x * x;
        const Floats low = (x * -0.9617958068847656f + -0.5849629044532776f + e) +
                           (x * -0.14252839982509613f + 0.32064467668533325f) * q;
        const Floats high = (x * -0.03747083991765976f + 0.07043471187353134f) +
                            (x * -0.014717801474034786f + 0.02559169940650463f) * q;
        return {high * (q * q) + low, __builtin_convertvector((Ints)v, Floats) * 0x1p-31f, uniform, v};
    }

    // A row's points, made a step ahead: what one step waits for, another computes meanwhile.
    // Field by field, since GCC copies the whole through memory.
    struct Row {
        Generator generator;
        Floats energy = {}, s = {}, axis = {};
        Words sign = {};

        Row(uint64_t key, uint64_t number) : generator(key, number) { next(); }

        [[gnu::always_inline]] inline Points next() {
            const Points now{energy, s, axis, sign}, ahead = points(generator);
            energy = ahead.energy;
            s = ahead.s;
            axis = ahead.axis;
            sign = ahead.sign;
            return now;
        }
    };

    // sqrt(2 ln 2) sin(pi s/4), relative error 1.6e-6, mean square exact; t = s^2.
    static inline Floats sine(Floats s, Floats t) {
        return ((t * 0.0028671985492110252f - 0.09504547715187073f) * t + 0.9247342348098755f) * s;
    }

    // sqrt(2 ln 2) cos(pi s/4), error 3e-8.
    static inline Floats cosine(Floats t) {
        return ((t * -0.00037546464591287076f + 0.0186618659645319f) * t - 0.363141804933548f) * t +
               1.1774100065231323f;
    }

    // Sixteen numbers in two vectors; returns the energies of their pairs.
    [[gnu::always_inline]] static inline Floats normals(Row &row, Floats &a, Floats &b) {
        const Points p = row.next();
        const Floats root = Machine::root(p.energy);
        const Floats radius = (Floats)((Words)root ^ ((p.sign << 27) & 0x80000000u));
        const Floats t = p.s * p.s, main = cosine(t), minor = sine(p.s, t);
        a = Machine::choose(p.axis, minor, main) * radius;
        b = Machine::choose(p.axis, main, minor) * radius;
        return p.energy;
    }

    static inline Floats load(const float *x) {
        Floats v;
        std::memcpy(&v, x, sizeof v);
        return v;
    }

    static inline void store(float *x, Floats v) { std::memcpy(x, &v, sizeof v); }

    static inline Floats absolute(Floats x) { return (Floats)((Words)x & 0x7fffffffu); }

    static inline double sum(Floats x) {
        const Doubles low = {double(x[0]), double(x[1]), double(x[2]), double(x[3])};
        const Doubles high = {double(x[4]), double(x[5]), double(x[6]), double(x[7])};
        const Doubles total = low + high;
        return (total[0] + total[2]) + (total[1] + total[3]);
    }

    static void row(const GaussianTask &task, uint64_t number, float *x, int64_t padded) {
        Row drawn(task.key, number);
        for (int64_t i = 0; i < padded; i += kGaussianStep) {
            Floats a, b;
            normals(drawn, a, b);
            store(x + i, a);
            store(x + i + kGaussianLanes, b);
        }
        std::fill(x + task.d, x + padded, 0.0f);
        if (task.scale)
            for (int64_t i = 0; i < task.d; ++i) x[i] *= task.scale[i];
    }

    // The first `count` lanes, and 0.
    static inline Floats first(Floats x, int64_t count) {
        const Ints lanes = {0, 1, 2, 3, 4, 5, 6, 7};
        return (Floats)((Ints)x & (lanes < static_cast<int32_t>(count)));
    }

    static constexpr double kEnergy = 1.3862943611198906;  // 2 ln 2, what an energy of 1 is in x^2 + y^2
    static constexpr int64_t kPiece = 2048;  // float32 sums are short, so that they are exact to 1e-7

    static void sums(const GaussianTask &task, int64_t i, float *x, const float *last, int64_t padded) {
        if (task.scale)
            task.product ? components<true, true>(task, i, x, last, padded)
                         : components<true, false>(task, i, x, last, padded);
        else if (task.product)
            components<false, true>(task, i, x, last, padded);
        else if (task.counts)
            components<false, false>(task, i, x, last, padded);
        else
            lengths(task, i);
        for (int64_t c = 0; c < task.counts; ++c) exceeding(task, i, c, x, padded);
    }

    // |cos| + |sin| is sqrt(2) times the cosine of what is left to 45 degrees: neither axes nor signs are needed.
    static void lengths(const GaussianTask &task, int64_t i) {
        Row drawn(task.key, task.first + i);
        const int64_t whole = task.d / kGaussianStep * kGaussianStep;
        double size = 0, energy = 0;
        for (int64_t start = 0; start < whole; start += kPiece) {
            const int64_t stop = std::min(start + kPiece, whole);
            Floats s = {}, e = {};
            for (int64_t j = start; j < stop; j += kGaussianStep) {
                const Points p = drawn.next();
                const Floats left = absolute(p.s) - 1.0f;
                s += cosine(left * left) * Machine::root(p.energy);
                e += p.energy;
            }
            size += sum(s);
            energy += sum(e);
        }
        size *= 1.4142135623730951;
        energy *= kEnergy;
        if (whole < task.d) {
            Floats a, b;
            normals(drawn, a, b);
            a = first(a, task.d - whole);
            b = first(b, task.d - whole - kGaussianLanes);
            size += sum(absolute(a) + absolute(b));
            energy += sum(a * a + b * b);
        }
        task.absolute[i] = size;
        task.square[i] = energy;
    }

    // Component by component into x, which held the row two before where products are asked for. Where nothing scales
    // them, squares are summed pair by pair.
    template <bool scaled, bool product>
    static void components(const GaussianTask &task, int64_t i, float *x, const float *last, int64_t padded) {
        Row drawn(task.key, task.first + i);
        double other = 0, square = 0, product_before = 0;
        for (int64_t start = 0; start < padded; start += kPiece) {
            const int64_t stop = std::min(start + kPiece, padded);
            Floats o[2] = {}, p[2] = {}, q = {};
            for (int64_t j = start; j < stop; j += kGaussianStep) {
                Floats value[2];
                Floats energy = normals(drawn, value[0], value[1]);
                if (j + kGaussianStep > task.d) {
                    for (int k = 0; k < 2; ++k) value[k] = first(value[k], task.d - j - k * kGaussianLanes);
                    energy = (value[0] * value[0] + value[1] * value[1]) * static_cast<float>(1 / kEnergy);
                }
                if (!scaled) q += energy;
                for (int k = 0; k < 2; ++k) {
                    float *place = x + j + k * kGaussianLanes;
                    if (scaled) {
                        value[k] *= load(task.scale + j + k * kGaussianLanes);
                        q += value[k] * value[k];
                    }
                    o[k] += product ? value[k] * load(place) : absolute(value[k]);
                    if (product) p[k] += value[k] * load(last + j + k * kGaussianLanes);
                    store(place, value[k]);
                }
            }
            other += sum(o[0]) + sum(o[1]);
            product_before += sum(p[0]) + sum(p[1]);
            square += sum(q);
        }
        (product ? task.product_two_before : task.absolute)[i] = other;
        if (product) task.product[i] = product_before;
        task.square[i] = scaled ? square : square * kEnergy;
    }

    static void exceeding(const GaussianTask &task, int64_t i, int64_t c, const float *x, int64_t padded) {
        const Floats threshold = Floats{} + task.thresholds[c];
        double above = 0, number = 0;
        for (int64_t start = 0; start < padded; start += kPiece) {
            const int64_t stop = std::min(start + kPiece, padded);
            Floats s[2] = {};
            Ints n = {};
            for (int64_t j = start; j < stop; j += kGaussianStep)
                for (int k = 0; k < 2; ++k) {
                    const Floats value = absolute(load(x + j + k * kGaussianLanes));
                    const Ints over = value > threshold;
                    s[k] += (Floats)((Ints)value & over);
                    n -= over;
                }
            above += sum(s[0]) + sum(s[1]);
            for (int lane = 0; lane < kGaussianLanes; ++lane) number += n[lane];
        }
        task.above[i * task.counts + c] = above;
        task.number[i * task.counts + c] = number;
    }
};

}  // namespace hypersign
