// The intrinsics of AVX-512 in plain C++, in place of the compiler's own <immintrin.h>: SIMDe's, and here those that its
// packaged version lacks.
#pragma once
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#define HYPERSIGN_REGISTER "m"

using __mmask8 = uint8_t;
using __mmask16 = uint16_t;
using __mmask32 = uint32_t;
using __mmask64 = uint64_t;

namespace simde_missing {

// A vector's numbers.
template <class T, class V>
struct Numbers {
    static constexpr int kCount = sizeof(V) / sizeof(T);
    T of[kCount];
    explicit Numbers(const V &v) { std::memcpy(of, &v, sizeof v); }
    Numbers() : of() {}
    V vector() const {
        V v;
        std::memcpy(&v, of, sizeof v);
        return v;
    }
};

// Loads the numbers of a mask, which may be the only ones in memory; zero elsewhere.
template <class T, class V>
V load(uint64_t mask, const void *from) {
    Numbers<T, V> numbers;
    for (int i = 0; i < numbers.kCount; ++i)
        if (mask >> i & 1) std::memcpy(&numbers.of[i], static_cast<const T *>(from) + i, sizeof(T));
    return numbers.vector();
}

template <class T, class V>
uint64_t less(const V &a, const V &b) {
    const Numbers<T, V> x(a), y(b);
    uint64_t mask = 0;
    for (int i = 0; i < x.kCount; ++i) mask |= static_cast<uint64_t>(x.of[i] < y.of[i]) << i;
    return mask;
}

inline void store32(void *to, uint64_t mask, const __m512i &v) {
    const Numbers<int32_t, __m512i> numbers(v);
    for (int i = 0; i < 16; ++i)
        if (mask >> i & 1) std::memcpy(static_cast<int32_t *>(to) + i, &numbers.of[i], 4);
}

inline __m512i gather64(const __m512i &source, uint64_t mask, const __m512i &indices, const void *from, int scale) {
    Numbers<int64_t, __m512i> numbers(source), at(indices);
    for (int i = 0; i < 8; ++i)
        if (mask >> i & 1) std::memcpy(&numbers.of[i], static_cast<const char *>(from) + at.of[i] * scale, 8);
    return numbers.vector();
}

template <class From, class To, class V>
__m512i convert(uint64_t mask, const V &v) {
    const Numbers<From, V> from(v);
    Numbers<To, __m512i> to;
    for (int i = 0; i < to.kCount; ++i)
        if (mask >> i & 1) to.of[i] = from.of[i];
    return to.vector();
}

inline void store_floats(void *to, uint64_t mask, const __m512 &v) {
    const Numbers<float, __m512> numbers(v);
    for (int i = 0; i < 16; ++i)
        if (mask >> i & 1) std::memcpy(static_cast<float *>(to) + i, &numbers.of[i], 4);
}

inline __m512i shift_right(const __m512i &v, int bits) {
    Numbers<int32_t, __m512i> numbers(v);
    for (int32_t &number : numbers.of) number >>= bits;
    return numbers.vector();
}

inline __m512 to_floats(const __m512i &v) {
    const Numbers<int32_t, __m512i> from(v);
    Numbers<float, __m512> to;
    for (int i = 0; i < 16; ++i) to.of[i] = static_cast<float>(from.of[i]);
    return to.vector();
}

inline int32_t largest(const __m512i &v) {
    const Numbers<int32_t, __m512i> numbers(v);
    return *std::max_element(numbers.of, numbers.of + 16);
}

inline __m512i truncate(const __m512 &v) {
    const Numbers<float, __m512> from(v);
    Numbers<int32_t, __m512i> to;
    for (int i = 0; i < 16; ++i) to.of[i] = static_cast<int32_t>(from.of[i]);
    return to.vector();
}

inline __m512i round(const __m512 &v) {
    const Numbers<float, __m512> from(v);
    Numbers<int32_t, __m512i> to;
    for (int i = 0; i < 16; ++i) to.of[i] = static_cast<int32_t>(std::nearbyint(from.of[i]));
    return to.vector();
}

inline __m512 gather_floats(const __m512i &indices, const void *from) {
    const Numbers<int32_t, __m512i> at(indices);
    Numbers<float, __m512> to;
    for (int i = 0; i < 16; ++i) to.of[i] = static_cast<const float *>(from)[at.of[i]];
    return to.vector();
}

inline __m128i narrow(const __m512i &v) {
    const Numbers<int32_t, __m512i> from(v);
    Numbers<int8_t, __m128i> to;
    for (int i = 0; i < 16; ++i) to.of[i] = static_cast<int8_t>(from.of[i]);
    return to.vector();
}

inline void store8(void *to, uint64_t mask, const __m128i &v) {
    const Numbers<int8_t, __m128i> numbers(v);
    for (int i = 0; i < 16; ++i)
        if (mask >> i & 1) static_cast<int8_t *>(to)[i] = numbers.of[i];
}

// The bits of a mask side by side, and back.
inline uint64_t extract(uint64_t from, uint64_t mask) {
    uint64_t to = 0;
    for (int bit = 0; mask != 0; mask &= mask - 1, ++bit) to |= static_cast<uint64_t>((from & mask & -mask) != 0) << bit;
    return to;
}

inline uint64_t deposit(uint64_t from, uint64_t mask) {
    uint64_t to = 0;
    for (; mask != 0; mask &= mask - 1, from >>= 1) to |= from & 1 ? mask & -mask : 0;
    return to;
}

}  // namespace simde_missing

#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC
#define _mm512_reduce_max_epi32(v) simde_missing::largest(v)
#define _mm512_cvttps_epi32(v) simde_missing::truncate(v)
#define _mm512_cvtps_epi32(v) simde_missing::round(v)
#define _mm512_i32gather_ps(indices, from, scale) simde_missing::gather_floats(indices, from)
#define _mm512_cvtepi32_epi8(v) simde_missing::narrow(v)
#define _mm_mask_storeu_epi8(to, mask, v) simde_missing::store8(to, mask, v)
#define _mm512_stream_ps(to, v) _mm512_storeu_ps(to, v)
#define _pext_u64(from, mask) simde_missing::extract(from, mask)
#define _pdep_u64(from, mask) simde_missing::deposit(from, mask)
#define _mm512_maskz_loadu_epi8(mask, from) simde_missing::load<int8_t, __m512i>(mask, from)

#define _mm512_maskz_loadu_epi32(mask, from) simde_missing::load<int32_t, __m512i>(mask, from)
#define _mm512_mask_storeu_ps(to, mask, v) simde_missing::store_floats(to, mask, v)
#define _mm512_srai_epi32(v, bits) simde_missing::shift_right(v, bits)
#define _mm512_cvtepi32_ps(v) simde_missing::to_floats(v)
#define _mm512_maskz_loadu_ps(mask, from) simde_missing::load<float, __m512>(mask, from)
#define _mm512_maskz_loadu_pd(mask, from) simde_missing::load<double, __m512d>(mask, from)
#define _mm512_maskz_loadu_epi16(mask, from) simde_missing::load<int16_t, __m512i>(mask, from)
#define _mm512_maskz_loadu_epi64(mask, from) simde_missing::load<int64_t, __m512i>(mask, from)
#define _mm256_maskz_loadu_epi8(mask, from) simde_missing::load<int8_t, __m256i>(mask, from)
#define _mm256_maskz_loadu_epi32(mask, from) simde_missing::load<int32_t, __m256i>(mask, from)
#define _mm512_mask_storeu_epi32(to, mask, v) simde_missing::store32(to, mask, v)
#define _mm512_mask_i64gather_epi64(source, mask, indices, from, scale) \
    simde_missing::gather64(source, mask, indices, from, scale)
#define _mm512_cmplt_epi16_mask(a, b) simde_missing::less<int16_t>(a, b)
#define _mm512_cmplt_epi32_mask(a, b) simde_missing::less<int32_t>(a, b)
#define _mm512_cmplt_epi64_mask(a, b) simde_missing::less<int64_t>(a, b)
#define _mm512_cvtepu8_epi16(v) simde_missing::convert<uint8_t, int16_t>(~uint64_t{0}, v)
#define _mm512_cvtepu8_epi32(v) simde_missing::convert<uint8_t, int32_t>(~uint64_t{0}, v)
#define _mm512_maskz_cvtepi32_epi64(mask, v) simde_missing::convert<int32_t, int64_t>(mask, v)
