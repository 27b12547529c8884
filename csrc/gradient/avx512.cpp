// Gradients with AVX-512 VBMI and VNNI; tables are built as with AVX2.
//
// A byte permutation (vpermb) looks up 64 bytes of a whole register, so two tables, of sixteen numbers, lie in one
// register: four neighbouring bytes are one channel's four sums. Their product with four signs, added up in 32 bits
// (vpdpbusd), needs neither a further addition nor a flush: 256 multiply-accumulates, of 16 channels by 16 numbers,
// take two instructions in place of three for 128.
//
// The bottleneck is port 5 of Intel's cores, where permutations go: 256 multiply-accumulates per cycle. Eight rows of
// tables by 32 channels are 16 permutations and load 12 registers: indices and signs, and half a register per row.
// Registers: 16 accumulators, 4 of indices and signs, a table.
//
// Instructions: Intel Intrinsics Guide; ports: uops.info, tables of VPERMB, VPDPBUSD and VPUNPCKLWD (ZMM).

#include "avx512.hpp"
#include "gradient/gradient.hpp"

namespace hypersign {
namespace {

// For each half of the channels 64 bytes of indices, then 64 of signs; channel c's four bytes lie at 4 c.
void spread(const uint32_t *words, uint8_t *out, int32_t *signs) {
    const __m512i bit_u8x64 = _mm512_set_epi32(
        static_cast<int>(0x80808080), 0x40404040, 0x20202020, 0x10101010, 0x08080808, 0x04040404, 0x02020202,
        0x01010101, static_cast<int>(0x80808080), 0x40404040, 0x20202020, 0x10101010, 0x08080808, 0x04040404,
        0x02020202, 0x01010101);
    const __m512i ones_i8x64 = _mm512_set1_epi8(1), minus_i8x64 = _mm512_set1_epi8(-1);
    __m512i four_i32x16[4];  // number j of each four, in all 128 bits
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j)
        four_i32x16[j] = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(words + 4 * j)));
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
        // Byte 2 half, and 2 half + 1 in the upper 256 bits, of each of the four words.
        const int first = 0x0c080400 + 0x02020202 * half, second = first + 0x01010101;
        const __m512i byte_u8x64 = _mm512_set_epi32(second, second, second, second, second, second, second, second,
                                                    first, first, first, first, first, first, first, first);
        __mmask64 set[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
            set[j] = _mm512_test_epi8_mask(_mm512_shuffle_epi8(four_i32x16[j], byte_u8x64), bit_u8x64);
        __m512i index_u8x64 = _mm512_set1_epi32(0x18100800);  // each four has eight entries of its own
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
            index_u8x64 = _mm512_mask_blend_epi8(
                set[j], index_u8x64,
                _mm512_xor_si512(index_u8x64, _mm512_set1_epi8(static_cast<char>(j ? 1 << (j - 1) : 7))));
        const __m512i sign_i8x64 = _mm512_mask_blend_epi8(set[0], ones_i8x64, minus_i8x64);
        _mm512_storeu_si512(out + 128 * half, index_u8x64);
        _mm512_storeu_si512(out + 128 * half + 64, sign_i8x64);
        int32_t *sum = signs + 16 * half;
        _mm512_storeu_si512(sum, _mm512_dpbusd_epi32(_mm512_loadu_si512(sum), ones_i8x64, sign_i8x64));
    }
}

template <int rows>
void look(const uint8_t *const *tables, const Segment *segments, int64_t count, int32_t (*sums)[kBlock]) {
    __m512i low_i32x16[rows], high_i32x16[rows];  // the first and the last sixteen channels
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
        low_i32x16[r] = _mm512_loadu_si512(sums[r]);
        high_i32x16[r] = _mm512_loadu_si512(sums[r] + 16);
    }
    for (const Segment *segment = segments; segment < segments + count; ++segment) {
        const uint8_t *index = segment->indices;
        for (int64_t at = segment->offset, end = at + segment->tables * kTable; at < end;
             at += 2 * kTable, index += 2 * kIndices) {
            const __m512i low_u8x64 = _mm512_loadu_si512(index), low_i8x64 = _mm512_loadu_si512(index + 64);
            const __m512i high_u8x64 = _mm512_loadu_si512(index + 128), high_i8x64 = _mm512_loadu_si512(index + 192);
#pragma GCC unroll 8
            for (int r = 0; r < rows; ++r) {
                const __m256i half_u8x32 = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(tables[r] + at));
                const __m512i entries_u8x64 = _mm512_broadcast_i64x4(half_u8x32);
                low_i32x16[r] = _mm512_dpbusd_epi32(low_i32x16[r], _mm512_permutexvar_epi8(low_u8x64, entries_u8x64),
                                                    low_i8x64);
                high_i32x16[r] = _mm512_dpbusd_epi32(
                    high_i32x16[r], _mm512_permutexvar_epi8(high_u8x64, entries_u8x64), high_i8x64);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
        _mm512_storeu_si512(sums[r], low_i32x16[r]);
        _mm512_storeu_si512(sums[r] + 16, high_i32x16[r]);
    }
}

void look_any(const uint8_t *const *tables, int64_t rows, const Segment *segments, int64_t count,
              int32_t (*sums)[kBlock]) {
    using Look = void (*)(const uint8_t *const *, const Segment *, int64_t, int32_t (*)[kBlock]);
    static constexpr Look looks[kRows] = {look<1>, look<2>, look<3>, look<4>, look<5>, look<6>, look<7>, look<8>};
    looks[rows - 1](tables, segments, count, sums);
}

__mmask16 lanes(int64_t left) { return left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1); }

void add(const int8_t *q, int64_t n, int32_t *sums) {
    for (int64_t i = 0; i < n; ++i) sums[i] += q[i];
}

void write(const int32_t *sums, const int32_t *bias, float scale, uint32_t inside, int64_t channels, bool stream,
           float *out) {
    for (int64_t c = 0; c < channels; c += 16) {
        const __m512i exact_i32x16 = _mm512_sub_epi32(_mm512_loadu_si512(sums + c), _mm512_loadu_si512(bias + c));
        const __m512 value_f32x16 = _mm512_maskz_mul_ps(static_cast<__mmask16>(inside >> c),
                                                        _mm512_cvtepi32_ps(exact_i32x16), _mm512_set1_ps(scale));
        if (stream)
            _mm512_stream_ps(out + c, value_f32x16);
        else
            _mm512_mask_storeu_ps(out + c, lanes(channels - c), value_f32x16);
    }
}

int32_t largest(const float *x, int64_t n, int64_t width, int32_t *columns) {
    const __m512i magnitude_i32x16 = _mm512_set1_epi32(0x7fffffff);
    __m512i most_i32x16 = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i += width)
        for (int64_t j = 0; j < width; j += 16) {
            const __mmask16 valid = lanes(width - j);
            __builtin_prefetch(x + i + j + 1024);  // the processor's own prefetching stops at each page
            const __m512i bits_i32x16 =
                _mm512_and_si512(_mm512_maskz_loadu_epi32(valid, x + i + j), magnitude_i32x16);
            most_i32x16 = _mm512_max_epi32(most_i32x16, bits_i32x16);
            const __m512i before_i32x16 = _mm512_maskz_loadu_epi32(valid, columns + j);
            _mm512_mask_storeu_epi32(columns + j, valid, _mm512_max_epi32(before_i32x16, bits_i32x16));
        }
    return _mm512_reduce_max_epi32(most_i32x16);
}

__m256i next(__m256i s) {
    s = _mm256_xor_si256(s, _mm256_slli_epi32(s, 13));
    s = _mm256_xor_si256(s, _mm256_srli_epi32(s, 17));
    return _mm256_xor_si256(s, _mm256_slli_epi32(s, 5));
}

// Sixteen numbers, rounded and clipped.
__m128i rounded(__m512 x_f32x16, __m512 inverse_f32x16, __m512i uniform_i32x16) {
    const __m512 u_f32x16 = _mm512_mul_ps(_mm512_cvtepi32_ps(uniform_i32x16), _mm512_set1_ps(1.0f / 65536));
    constexpr int down = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;  // SIMDe's macro needs one name
    __m512 y_f32x16 = _mm512_roundscale_ps(_mm512_add_ps(_mm512_mul_ps(x_f32x16, inverse_f32x16), u_f32x16), down);
    y_f32x16 = _mm512_max_ps(y_f32x16, _mm512_set1_ps(-31.0f));  // also where y is NaN, whose scale tells
    return _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(_mm512_min_ps(y_f32x16, _mm512_set1_ps(31.0f))));
}

void round(const float *x, int64_t n, int64_t width, float a, const float *b, uint32_t *state, int8_t *by_image,
           int8_t *by_filter) {
    __m256i s = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(state));
    const __m512 first_f32x16 = _mm512_set1_ps(a);
    for (int64_t i = 0; i < n; i += width)
        for (int64_t j = 0; j < width; j += 16) {
            __builtin_prefetch(x + i + j + 1024);
            const __mmask16 valid = lanes(width - j);
            const __m256i low = s = next(s);
            if (width - j > 8) s = next(s);
            const __m512i bits_i32x16 = _mm512_inserti64x4(_mm512_castsi256_si512(low), s, 1);
            const __m512 x_f32x16 = _mm512_maskz_loadu_ps(valid, x + i + j);
            const __m128i image_i8x16 =
                rounded(x_f32x16, first_f32x16, _mm512_and_si512(bits_i32x16, _mm512_set1_epi32(0xffff)));
            const __m128i filter_i8x16 =
                rounded(x_f32x16, _mm512_maskz_loadu_ps(valid, b + j), _mm512_srli_epi32(bits_i32x16, 16));
            _mm_mask_storeu_epi8(by_image + i + j, valid, image_i8x16);
            _mm_mask_storeu_epi8(by_filter + i + j, valid, filter_i8x16);
        }
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(state), s);
}

}  // namespace

const GradientKernels gradient_avx512{gradient_avx2.split, gradient_avx2.build, spread, look_any, add, write, largest,
                                      round};

}  // namespace hypersign
