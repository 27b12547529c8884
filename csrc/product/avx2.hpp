// What the AVX2 kernels share: how counts of 4 bits become counts of 8 and 16 bits, and the epilogue.
//
// A byte of t holds two counts of 4 bits. Two byte accumulators are kept: of t itself, modulo 256, and of t / 16,
// where t is divided in lanes of 16 bits. Let a, b be the counts in an even byte, and c, d those in the odd byte
// above it. Bytes of t are a + 16 b and c + 16 d; bytes of t / 16 are b + 16 c, modulo 256, and d. So d is known;
// then c follows from c + 16 d, b from b + 16 c, and a from a + 16 b, as long as none exceeds 255.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "inline.hpp"
#include "product/product.hpp"

namespace hypersign {
namespace {  // a copy for each file: no vector is handed from one to the other

constexpr int kLanes = 32;

// Byte accumulators of G registers of filters. Each is a member of its own, because the compiler would keep an array
// in memory.
template <int G>
struct Accumulators {
    __m256i whole = _mm256_setzero_si256(), upper = _mm256_setzero_si256();
    Accumulators<G - 1> rest;

    // Adds t(0), t(1) and so on. Divides by a shift, or by a multiplication with `factors`.
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
        __asm__("" : "+x"(whole), "+x"(upper));  // one after the other: all at once would not fit the registers
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
struct Accumulators<0> {
    template <typename... T>
    HYPERSIGN_INLINE void add_from(T...) {}
    HYPERSIGN_INLINE void add_stored(const __m256i *) {}
    HYPERSIGN_INLINE void store(__m256i *) const {}
};

// 2^16 / 16, for `Accumulators::add`. The compiler must not know the number, or it would shift, on the port of
// shuffles.
HYPERSIGN_INLINE __m256i sixteenth() {
    __m256i factor = _mm256_set1_epi16(1 << 12);
    __asm__("" : "+x"(factor));
    return factor;
}

// Counts of 32 filters in 16 bits, of even ones and of odd ones.
struct Counts16 {
    __m256i even, odd;
};

template <bool First>
HYPERSIGN_INLINE void accumulate(__m256i even, __m256i odd, Counts16 &to) {
    to.even = First ? even : _mm256_add_epi16(to.even, even);
    to.odd = First ? odd : _mm256_add_epi16(to.odd, odd);
}

// Separates the counts: those of the lower 4 bits go to `one`, those of the upper 4 to `other`; the next register's
// are `step` further.
template <bool First>
HYPERSIGN_INLINE void separate(const Accumulators<0> &, Counts16 *, Counts16 *, int) {}

template <bool First, int G>
HYPERSIGN_INLINE void separate(const Accumulators<G> &of, Counts16 *one, Counts16 *other, int step) {
    const __m256i low = _mm256_set1_epi16(255);
    const __m256i d = _mm256_srli_epi16(of.upper, 8);
    const __m256i c = _mm256_srli_epi16(_mm256_sub_epi8(of.whole, _mm256_slli_epi16(d, 12)), 8);
    const __m256i b = _mm256_and_si256(_mm256_sub_epi8(of.upper, _mm256_slli_epi16(c, 4)), low);
    const __m256i a = _mm256_and_si256(_mm256_sub_epi8(of.whole, _mm256_slli_epi16(b, 4)), low);
    accumulate<First>(a, c, *one);
    accumulate<First>(b, d, *other);
    separate<First>(of.rest, one + step, other + step, step);
}

// Counts of 16 bits in the filters' order: 0-7 and 16-23; 8-15 and 24-31.
struct Ordered {
    __m256i first, second;
    Ordered(const Counts16 &half)
        : first(_mm256_unpacklo_epi16(half.even, half.odd)), second(_mm256_unpackhi_epi16(half.even, half.odd)) {}
    // Filters 8 part to 8 part + 7.
    __m128i eight(int part) const {
        const __m256i &from = part % 2 ? second : first;
        return part / 2 ? _mm256_extracti128_si256(from, 1) : _mm256_castsi256_si128(from);
    }
};

// Adds counts of 16 bits to counts of 32.
template <int G>
void widen(const Counts16 (&counts16)[G], int32_t *counts) {
    for (const Counts16 &half : counts16) {
        const Ordered ordered(half);
        for (int part = 0; part < 4; ++part, counts += 8) {
            auto at = reinterpret_cast<__m256i *>(counts);
            const __m256i more = _mm256_cvtepu16_epi32(ordered.eight(part));
            _mm256_store_si256(at, _mm256_add_epi32(_mm256_load_si256(at), more));
        }
    }
}

// Thresholds of a pixel in 16 bits, in the order of `Ordered`, for counts that are less than 2^15 in magnitude.
template <int G>
struct Thresholds16 {
    const int32_t *of = nullptr;  // the pixel's own
    __m256i low[G][2] = {}, high[G][2] = {};

    void take(const ProductTile &tile, int64_t p) {
        const int32_t *thresholds = tile.thresholds[p] + tile.first_filter;
        if (thresholds == of) return;  // neighbours share theirs, except at the edges
        of = thresholds;
        for (int g = 0; g < G; ++g)
            for (int part = 0; part < 2; ++part) {
                low[g][part] = pack(thresholds + g * kLanes + 8 * part);
                if (tile.levels_plane) high[g][part] = pack(thresholds + tile.high_stride + g * kLanes + 8 * part);
            }
    }

    static __m256i pack(const int32_t *thresholds) {
        auto load = [&](int i) {
            auto at = reinterpret_cast<const __m128i *>(thresholds + i);
            return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(at)), _mm_loadu_si128(at + 4), 1);
        };
        return _mm256_packs_epi32(load(0), load(4));  // saturated: a threshold that no count reaches stays out of reach
    }
};

// Levels of pixel p, of the 32 filters of register g: -1 where `minus`, not +1 where `not_plus`, then flipped.
inline void epilogue_levels(const ProductTile &tile, int64_t p, int g, uint32_t minus, uint32_t not_plus) {
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

// Epilogue of pixel p to sums of a multiple of 8 filters, for counts less than 2^15. Sums are, too, so overflows on the
// way cancel. Counts of ternary inputs are too high by `bias`.
template <bool Bias, int G>
HYPERSIGN_INLINE void epilogue_sums(const ProductTile &tile, int64_t p, const Counts16 (&counts16)[G], __m256i bias,
                                    Thresholds16<G> &thresholds) {
    thresholds.take(tile, p);
    auto out = reinterpret_cast<__m256i *>(tile.sums + p * tile.sums_stride);
    const __m256i *const end = out + tile.filters / 8;
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
        auto sum = [&](const __m256i &offset, const __m256i &v) {
            return _mm256_sub_epi16(offset, Bias ? _mm256_sub_epi16(v, bias) : _mm256_add_epi16(v, v));
        };
        const Ordered counts(counts16[g]);
        const __m256i first = sum(thresholds.low[g][0], counts.first);
        const __m256i second = sum(thresholds.low[g][1], counts.second);
        for (const __m128i &eight : {_mm256_castsi256_si128(first), _mm256_castsi256_si128(second),
                                     _mm256_extracti128_si256(first, 1), _mm256_extracti128_si256(second, 1)})
            if (out < end) _mm256_storeu_si256(out++, _mm256_cvtepi16_epi32(eight));
    }
}

// Epilogue of pixel p to levels.
template <bool Bias, int G>
HYPERSIGN_INLINE void epilogue_levels(const ProductTile &tile, int64_t p, const Counts16 (&counts16)[G], __m256i bias,
                                      Thresholds16<G> &thresholds) {
    thresholds.take(tile, p);
    for (int g = 0; g < G; ++g) {
        Ordered counts(counts16[g]);
        if (Bias) {
            counts.first = _mm256_sub_epi16(counts.first, bias);
            counts.second = _mm256_sub_epi16(counts.second, bias);
        }
        auto greater = [&](const __m256i (&than)[2]) {
            return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_packs_epi16(
                _mm256_cmpgt_epi16(counts.first, than[0]), _mm256_cmpgt_epi16(counts.second, than[1]))));
        };
        const uint32_t minus = greater(thresholds.low[g]);
        const uint32_t not_plus = tile.levels_plane ? greater(thresholds.high[g]) : 0;
        epilogue_levels(tile, p, g, minus, not_plus);
    }
}

// Epilogue of pixel p, to either, from counts of 32 bits.
inline void epilogue32(const ProductTile &tile, int64_t p, const int32_t *counts, int lanes) {
    const int32_t *thresholds = tile.thresholds[p] + tile.first_filter;
    if (tile.sums) {
        int32_t *out = tile.sums + p * tile.sums_stride;
        const int shift = tile.ternary_x ? 0 : 1;
        for (int i = 0; i < tile.filters; ++i) out[i] = thresholds[i] - counts[i] * (1 << shift);
        return;
    }
    for (int g = 0; g < lanes / kLanes; ++g, counts += kLanes, thresholds += kLanes) {
        auto greater = [&](const int32_t *than) {
            uint32_t mask = 0;
            for (int i = 0; i < kLanes; ++i) mask |= static_cast<uint32_t>(counts[i] > than[i]) << i;
            return mask;
        };
        epilogue_levels(tile, p, g, greater(thresholds), tile.levels_plane ? greater(thresholds + tile.high_stride) : 0);
    }
}

}  // namespace
}  // namespace hypersign
