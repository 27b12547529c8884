// What the kernels of AVX2 share: how counts of 4 bits become counts of 8 and of 16, and those sums or levels.
//
// Of t, the sum of counts of 4 bits, two to a byte, two sums of bytes are kept: of t itself, modulo 256, and of t / 16,
// where t is taken as numbers of 16 bits. Let a, b be the counts in an even byte, and c, d those in the odd one above
// it. Bytes of t are a + 16 b and c + 16 d; bytes of t / 16 are b + 16 c, modulo 256, and d. So d is known; then c from
// c + 16 d, b from b + 16 c, and a from a + 16 b, as long as none is above 255.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "inline.hpp"
#include "product/product.hpp"

namespace hypersign {
namespace {  // a copy for each file: no vector is handed from one to the other

constexpr int kLanes = 32;

// Sums of counts in G registers. Members have names, and registers: the compiler would keep an array in memory.
template <int G>
struct Sums {
    __m256i whole = _mm256_setzero_si256(), upper = _mm256_setzero_si256();
    Sums<G - 1> rest;

    // Adds t(0), t(1) and so on; divided by a shift, or by a multiplication with `factors`.
    template <typename T, typename... Factor>
    HYPERSIGN_INLINE void add(const T &t, const Factor &...factors) {
        add_from(0, t, factors...);
    }
    template <typename T>
    HYPERSIGN_INLINE void add_from(int g, const T &t) {
        const __m256i counts = t(g);
        add_parts(counts, _mm256_srli_epi16(counts, 4));
        rest.add_from(g + 1, t);
    }
    template <typename T>
    HYPERSIGN_INLINE void add_from(int g, const T &t, const __m256i &sixteenth) {
        const __m256i counts = t(g);
        add_parts(counts, _mm256_mulhi_epu16(counts, sixteenth));
        rest.add_from(g + 1, t, sixteenth);
    }
    HYPERSIGN_INLINE void add_parts(const __m256i &counts, const __m256i &divided) {
        whole = _mm256_add_epi8(whole, counts);
        upper = _mm256_add_epi8(upper, divided);
        __asm__("" : "+x"(whole), "+x"(upper));  // one after another: they all at once would not fit
    }
    HYPERSIGN_INLINE void add_stored(const __m256i *from) {
        whole = _mm256_add_epi8(whole, _mm256_load_si256(from));
        upper = _mm256_add_epi8(upper, _mm256_load_si256(from + 1));
        rest.add_stored(from + 2);
    }
    HYPERSIGN_INLINE void store(__m256i *to) const {
        _mm256_store_si256(to, whole);
        _mm256_store_si256(to + 1, upper);
        rest.store(to + 2);
    }
};

template <>
struct Sums<0> {
    template <typename... T>
    HYPERSIGN_INLINE void add_from(T...) {}
    HYPERSIGN_INLINE void add_stored(const __m256i *) {}
    HYPERSIGN_INLINE void store(__m256i *) const {}
};

// 2^16 / 16, for `Sums::add`. The compiler must not know it, or it would shift, where shuffles are.
HYPERSIGN_INLINE __m256i sixteenth() {
    __m256i factor = _mm256_set1_epi16(1 << 12);
    __asm__("" : "+x"(factor));
    return factor;
}

// Counts of 32 filters in 16 bits, of even ones and of odd ones.
struct Halves {
    __m256i even, odd;
};

template <bool First>
HYPERSIGN_INLINE void put(__m256i even, __m256i odd, Halves &to) {
    to.even = First ? even : _mm256_add_epi16(to.even, even);
    to.odd = First ? odd : _mm256_add_epi16(to.odd, odd);
}

// Takes the counts apart: those of the lower 4 bits to `one`, of the upper 4 to `other`, and so on, `step` further.
template <bool First>
HYPERSIGN_INLINE void put(const Sums<0> &, Halves *, Halves *, int) {}

template <bool First, int G>
HYPERSIGN_INLINE void put(const Sums<G> &sums, Halves *one, Halves *other, int step) {
    const __m256i low = _mm256_set1_epi16(255);
    const __m256i d = _mm256_srli_epi16(sums.upper, 8);
    const __m256i c = _mm256_srli_epi16(_mm256_sub_epi8(sums.whole, _mm256_slli_epi16(d, 12)), 8);
    const __m256i b = _mm256_and_si256(_mm256_sub_epi8(sums.upper, _mm256_slli_epi16(c, 4)), low);
    const __m256i a = _mm256_and_si256(_mm256_sub_epi8(sums.whole, _mm256_slli_epi16(b, 4)), low);
    put<First>(a, c, *one);
    put<First>(b, d, *other);
    put<First>(sums.rest, one + step, other + step, step);
}

// Counts of 16 bits in the filters' order: 0-7 and 16-23; 8-15 and 24-31.
struct Ordered {
    __m256i first, second;
    Ordered(const Halves &half)
        : first(_mm256_unpacklo_epi16(half.even, half.odd)), second(_mm256_unpackhi_epi16(half.even, half.odd)) {}
    // Filters 8 part to 8 part + 7.
    __m128i eight(int part) const {
        const __m256i &from = part % 2 ? second : first;
        return part / 2 ? _mm256_extracti128_si256(from, 1) : _mm256_castsi256_si128(from);
    }
};

// Adds the halves to the counts.
template <int G>
void widen(const Halves (&halves)[G], int32_t *counts) {
    for (const Halves &half : halves) {
        const Ordered ordered(half);
        for (int part = 0; part < 4; ++part, counts += 8) {
            auto at = reinterpret_cast<__m256i *>(counts);
            const __m256i more = _mm256_cvtepu16_epi32(ordered.eight(part));
            _mm256_store_si256(at, _mm256_add_epi32(_mm256_load_si256(at), more));
        }
    }
}

// Limits of a pixel in 16 bits, in the order of `Ordered`, for counts that are less than 2^15 in magnitude.
template <int G>
struct Limits {
    const int32_t *of = nullptr;  // the pixel's own
    __m256i low[G][2] = {}, high[G][2] = {};

    void take(const ProductTile &tile, int64_t p) {
        const int32_t *limits = tile.limits[p] + tile.first_filter;
        if (limits == of) return;  // neighbours share theirs, but at the edges
        of = limits;
        for (int g = 0; g < G; ++g)
            for (int part = 0; part < 2; ++part) {
                low[g][part] = pack(limits + g * kLanes + 8 * part);
                if (tile.levels_plane) high[g][part] = pack(limits + tile.high_stride + g * kLanes + 8 * part);
            }
    }

    static __m256i pack(const int32_t *limits) {
        auto load = [&](int i) {
            auto at = reinterpret_cast<const __m128i *>(limits + i);
            return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(at)), _mm_loadu_si128(at + 4), 1);
        };
        return _mm256_packs_epi32(load(0), load(4));  // saturated: what no count reaches stays out of reach
    }
};

// Levels of pixel p, of the 32 filters of register g: -1 where `minus`, not +1 where `not_plus`, then flipped.
inline void write_levels(const ProductTile &tile, int64_t p, int g, uint32_t minus, uint32_t not_plus) {
    uint16_t *out = tile.levels + p * tile.levels_stride + 2 * g;
    uint32_t flip;
    std::memcpy(&flip, tile.flip + 2 * g, sizeof flip);
    uint32_t sign = minus ^ flip;
    if (tile.levels_plane) {
        const uint32_t nonzero = minus | ~not_plus;
        sign &= nonzero;
        std::memcpy(out + tile.levels_plane, &nonzero, sizeof nonzero);
    }
    std::memcpy(out, &sign, sizeof sign);
}

// Sums of pixel p, whose counts are less than 2^15. So are its sums, and what overflows on the way comes back. Counts
// of ternary inputs are too high by `bias`.
template <bool Bias, int G>
HYPERSIGN_INLINE void write_sums(const ProductTile &tile, int64_t p, const Halves (&halves)[G], __m256i bias,
                                 Limits<G> &limits) {
    limits.take(tile, p);
    auto out = reinterpret_cast<__m256i *>(tile.sums + p * tile.sums_stride);
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
        auto sum = [&](const __m256i &offset, const __m256i &v) {
            return _mm256_sub_epi16(offset, Bias ? _mm256_sub_epi16(v, bias) : _mm256_add_epi16(v, v));
        };
        const Ordered counts(halves[g]);
        const __m256i first = sum(limits.low[g][0], counts.first), second = sum(limits.low[g][1], counts.second);
        for (const __m128i &eight : {_mm256_castsi256_si128(first), _mm256_castsi256_si128(second),
                                     _mm256_extracti128_si256(first, 1), _mm256_extracti128_si256(second, 1)})
            _mm256_storeu_si256(out++, _mm256_cvtepi16_epi32(eight));
    }
}

// The same as levels.
template <bool Bias, int G>
HYPERSIGN_INLINE void write_levels(const ProductTile &tile, int64_t p, const Halves (&halves)[G], __m256i bias,
                                   Limits<G> &limits) {
    limits.take(tile, p);
    for (int g = 0; g < G; ++g) {
        Ordered counts(halves[g]);
        if (Bias) {
            counts.first = _mm256_sub_epi16(counts.first, bias);
            counts.second = _mm256_sub_epi16(counts.second, bias);
        }
        auto greater = [&](const __m256i (&than)[2]) {
            return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_packs_epi16(
                _mm256_cmpgt_epi16(counts.first, than[0]), _mm256_cmpgt_epi16(counts.second, than[1]))));
        };
        const uint32_t minus = greater(limits.low[g]), not_plus = tile.levels_plane ? greater(limits.high[g]) : 0;
        write_levels(tile, p, g, minus, not_plus);
    }
}

// Either from counts of 32 bits.
inline void finish(const ProductTile &tile, int64_t p, const int32_t *counts, int lanes) {
    const int32_t *limits = tile.limits[p] + tile.first_filter;
    if (tile.sums) {
        int32_t *out = tile.sums + p * tile.sums_stride;
        const int shift = tile.ternary_x ? 0 : 1;
        for (int i = 0; i < tile.filters; ++i) out[i] = limits[i] - counts[i] * (1 << shift);
        return;
    }
    for (int g = 0; g < lanes / kLanes; ++g, counts += kLanes, limits += kLanes) {
        auto greater = [&](const int32_t *than) {
            uint32_t mask = 0;
            for (int i = 0; i < kLanes; ++i) mask |= static_cast<uint32_t>(counts[i] > than[i]) << i;
            return mask;
        };
        write_levels(tile, p, g, greater(limits), tile.levels_plane ? greater(limits + tile.high_stride) : 0);
    }
}

}  // namespace
}  // namespace hypersign
