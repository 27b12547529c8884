// The transform in vector registers, for any instruction set: `width` bytes a register, `held` of them at a time.
//
// The bottleneck. A transform of n numbers has n log2 n additions, and a loop per stage would load and store each
// number log2 n times: two memory operations per addition, and two passes over the memory where n exceeds the cache.
// So each visit does several stages:
// - the leaf loads held x lanes neighbours and does all their stages in registers (256 floats with 16 registers of
//   AVX-512: 8 stages). Strides of a register and more are an addition and a subtraction of two registers: one
//   operation per register and stage. Strides below are a shuffle that swaps partners and a multiply-add with +-1
//   (integers: an addition and a subtraction under a mask): two operations, and shuffles have one port on Intel's
//   cores, so a float leaf takes about 4 (shuffles) to 6 cycles per register of 16;
// - above it, a pass of radix 8 loads numbers a stride apart into 8 registers and does 3 stages. Radix 16 would save
//   passes but took 1.7 times as long for 2^18 floats: 16 lines a power of two apart share one set of a cache that
//   has 8 to 12 ways, and throw each other out.
// For n = 1024 floats that is two visits, about 7 cycles for every 16 numbers, while the 4 KiB stay in the L1 cache.
//
// The recursion goes depth first: the 8 parts of a row are transformed one after the other, then joined by one pass.
// A part that fits into a cache is finished while it is there, whatever the cache's size: of the 24 stages of 2^24
// floats, 2^18 of which fit into 1 MiB of L2, all but the last 6 run in the cache, and those take two passes.
//
// Written in the vector types of GCC and Clang, which choose the instructions; they are the same for all.
#pragma once
#include <cstddef>
#include <cstring>
#include <utility>

#include "hadamard/butterflies.hpp"
#include "hadamard/hadamard.hpp"

namespace hypersign {
namespace {

template <typename T, int width, int held>
struct Transform {
    typedef T Vector __attribute__((vector_size(width)));
    static constexpr int kLanes = width / sizeof(T);
    static constexpr int kStreams = held < 8 ? held : 8;  // parts that are joined at once
    using Lanes = std::make_index_sequence<kLanes>;

    static Vector load(const T *x) {
        Vector v;
        std::memcpy(&v, x, width);
        return v;
    }
    static void store(T *y, Vector v) { std::memcpy(y, &v, width); }

    // The stage of a stride below a register: lane i meets lane i ^ stride.
    template <int stride, size_t... i>
    static Vector within(Vector v, std::index_sequence<i...>) {
#if defined(__clang__)
        const Vector partner = __builtin_shufflevector(v, v, (i ^ stride)...);
#else
        using Index = std::conditional_t<sizeof(T) == 2, int16_t, std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>;
        typedef Index Mask __attribute__((vector_size(width)));
        const Vector partner = __builtin_shuffle(v, Mask{static_cast<Index>(i ^ stride)...});
#endif
        if constexpr (std::is_floating_point_v<T>) {
            const Vector signs = {(i & stride ? T(-1) : T(1))...};
            return v * signs + partner;
        } else {
            const auto second = Vector{(i & stride ? T(1) : T(0))...} != 0;
            return second ? partner - v : partner + v;
        }
    }

    template <int stride = 1>
    static Vector within(Vector v) {
        if constexpr (stride < kLanes)
            return within<2 * stride>(within<stride>(v, Lanes()));
        else
            return v;
    }

    // The stages of strides of whole registers among `count` of them.
    template <int count>
    static void among(Vector (&v)[count]) {
#pragma GCC unroll 8
        for (int stride = 1; stride < count; stride *= 2)
#pragma GCC unroll 16
            for (int i = 0; i < count; ++i)
                if (!(i & stride)) {
                    const Vector a = v[i], b = v[i + stride];
                    v[i] = a + b;
                    v[i + stride] = a - b;
                }
    }

    template <int count>
    static void leaf(const T *x, T *y, T scale) {
        Vector v[count];
#pragma GCC unroll 16
        for (int i = 0; i < count; ++i) v[i] = within(load(x + i * kLanes));
        among(v);
#pragma GCC unroll 16
        for (int i = 0; i < count; ++i) store(y + i * kLanes, scale == T(1) ? v[i] : v[i] * scale);
    }

    // Joins `count` transformed parts of `part` numbers each.
    template <int count>
    static void join(T *y, int64_t part, T scale) {
        for (int64_t start = 0; start < part; start += kLanes) {
            Vector v[count];
#pragma GCC unroll 16
            for (int i = 0; i < count; ++i) v[i] = load(y + i * part + start);
            among(v);
#pragma GCC unroll 16
            for (int i = 0; i < count; ++i) store(y + i * part + start, scale == T(1) ? v[i] : v[i] * scale);
        }
    }

    // Calls f with the constant that equals `count`, a power of two up to `held`.
    template <int most = held, typename F>
    static void constant(int64_t count, F f) {
        if constexpr (most > 1)
            if (count < most) return constant<most / 2>(count, f);
        f(std::integral_constant<int, most>());
    }

    static void row(const T *x, T *y, int64_t n, T scale) {
        if (n < kLanes) return butterflies(x, y, n, scale);
        if (n <= held * kLanes) return constant(n / kLanes, [&](auto count) { leaf<count>(x, y, scale); });
        const int64_t rest = n / (held * kLanes), parts = rest < kStreams ? rest : kStreams, part = n / parts;
        for (int64_t i = 0; i < parts; ++i) row(x + i * part, y + i * part, part, T(1));
        constant(parts, [&](auto count) { join<count>(y, part, scale); });
    }

    static void rows(const T *x, T *y, int64_t rows, int64_t n, T scale) {
        for (int64_t i = 0; i < rows; ++i) row(x + i * n, y + i * n, n, scale);
    }
};

template <int width, int held>
struct VectorKernels {
    template <typename T>
    static void floating(const T *x, T *y, int64_t rows, int64_t n, T scale) {
        Transform<T, width, held>::rows(x, y, rows, n, scale);
    }

    template <typename T>
    static void integer(const T *x, T *y, int64_t rows, int64_t n) {
        using U = typename Wrapping<T>::type;
        Transform<U, width, held>::rows(reinterpret_cast<const U *>(x), reinterpret_cast<U *>(y), rows, n, U(1));
    }

    static constexpr HadamardKernels all{floating<float>, floating<double>, integer<int32_t>, integer<int16_t>};
};

}  // namespace
}  // namespace hypersign
