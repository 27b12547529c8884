#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "gradient/gradient.hpp"

namespace hypersign {
namespace {

inline __m256i load(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
inline void store(void *p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i *>(p), v); }

void split(const int8_t *from, int8_t (*q)[kBuild]) {
    // Bytes of each j of two tables together, in words; then a transposition of 8 x 8 words.
    const __m128i order = _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    for (int half = 0; half < 2; ++half) {
        __m128i v[8], w[8];
        for (int i = 0; i < 8; ++i)
            v[i] = _mm_shuffle_epi8(
                _mm_loadu_si128(reinterpret_cast<const __m128i *>(from + 128 * half + 16 * i)), order);
        for (int round = 0; round < 3; ++round) {  // rows i and i + 4 interleaved, three times over
            for (int i = 0; i < 4; ++i) {
                w[2 * i] = _mm_unpacklo_epi16(v[i], v[i + 4]);
                w[2 * i + 1] = _mm_unpackhi_epi16(v[i], v[i + 4]);
            }
            std::copy(w, w + 8, v);
        }
        for (int j = 0; j < 8; ++j) _mm_storeu_si128(reinterpret_cast<__m128i *>(q[j] + 16 * half), v[j]);
    }
}

void build(const int8_t *q, int64_t pitch, uint8_t *out, int64_t stride) {
    // Entry i of 32 tables in v[i]; then a transposition of 16 x 16 bytes in each half of the registers.
    __m256i v[kTable], w[kTable];
    for (int half = 0; half < 2; ++half) {
        __m256i *entry = v + 8 * half, row[4];
        for (int j = 0; j < 4; ++j) row[j] = load(q + (4 * half + j) * pitch);
        entry[0] = _mm256_add_epi8(_mm256_add_epi8(_mm256_set1_epi8(kTableBias), row[0]),
                                   _mm256_add_epi8(_mm256_add_epi8(row[1], row[2]), row[3]));
        for (int j = 1; j < 4; ++j)
            for (int i = 0; i < 1 << (j - 1); ++i)
                entry[i | 1 << (j - 1)] = _mm256_sub_epi8(entry[i], _mm256_add_epi8(row[j], row[j]));
    }
    for (int round = 0; round < 4; ++round) {  // rows i and i + 8 interleaved, four times over: byte t of all in row t
        for (int i = 0; i < 8; ++i) {
            w[2 * i] = _mm256_unpacklo_epi8(v[i], v[i + 8]);
            w[2 * i + 1] = _mm256_unpackhi_epi8(v[i], v[i + 8]);
        }
        std::copy(w, w + kTable, v);
    }
    for (int t = 0; t < kTable; ++t) {
        _mm_storeu_si128(reinterpret_cast<__m128i *>(out + t * stride), _mm256_castsi256_si128(v[t]));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(out + (t + kTable) * stride), _mm256_extracti128_si256(v[t], 1));
    }
}

// Two registers of bytes of 32 channels, interleaved: channels 0 to 15 in the first, the others in the second.
inline void interleave(uint8_t *out, __m256i first, __m256i second) {
    const __m256i low = _mm256_unpacklo_epi8(first, second), high = _mm256_unpackhi_epi8(first, second);
    store(out, _mm256_permute2x128_si256(low, high, 0x20));
    store(out + 32, _mm256_permute2x128_si256(low, high, 0x31));
}

// Of one table, whose first four numbers are words[4 j], and the others words[4 j + 1].
void spread_table(const uint32_t *words, uint8_t *out, int32_t *signs) {
    const __m256i bytes = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,  //
                                           2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
    __m256i index[2], sign[2];
    for (int half = 0; half < 2; ++half) {
        __m256i set[4];  // -1 where the bit is
        for (int j = 0; j < 4; ++j) {
            const __m256i word = _mm256_set1_epi32(static_cast<int>(words[4 * j + half]));
            set[j] = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(word, bytes), bit), bit);
        }
        index[half] = _mm256_and_si256(set[0], _mm256_set1_epi8(7));
        for (int j = 1; j < 4; ++j)
            index[half] = _mm256_xor_si256(index[half], _mm256_and_si256(set[j], _mm256_set1_epi8(1 << (j - 1))));
        sign[half] = _mm256_or_si256(set[0], _mm256_set1_epi8(1));
    }
    index[1] = _mm256_or_si256(index[1], _mm256_set1_epi8(8));
    interleave(out, index[0], index[1]);
    interleave(out + 2 * kBlock, sign[0], sign[1]);
    alignas(32) int8_t both[kBlock];
    store(both, _mm256_add_epi8(sign[0], sign[1]));
    for (int64_t c = 0; c < kBlock; ++c) signs[c] += both[c];
}

void spread(const uint32_t *words, uint8_t *out, int32_t *signs) {
    spread_table(words, out, signs);
    spread_table(words + 2, out + kIndices, signs);
}

inline __m256i table(const uint8_t *p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}

inline void flush(int32_t *sums, __m256i words) {
    const __m256i low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(words));
    const __m256i high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(words, 1));
    store(sums, _mm256_add_epi32(load(sums), low));
    store(sums + 8, _mm256_add_epi32(load(sums + 8), high));
}

template <int rows>
void look(const uint8_t *const *tables, const Segment *segments, int64_t count, int32_t (*sums)[kBlock]) {
    for (int64_t s = 0; s < count;) {
        __m256i acc[rows][2];
        for (int r = 0; r < rows; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
        for (int64_t space = kFlush; s < count && segments[s].tables <= space; ++s) {
            const Segment &segment = segments[s];
            space -= segment.tables;
            const uint8_t *from[rows], *index = segment.indices;
            for (int r = 0; r < rows; ++r) from[r] = tables[r] + segment.offset;
            for (int64_t t = 0; t < segment.tables; ++t, index += kIndices) {
                __m256i low = load(index), high = load(index + 32), plus = load(index + 64), more = load(index + 96);
                asm("" : "+x"(low), "+x"(high), "+x"(plus), "+x"(more));  // loaded once, not again for every row
                for (int r = 0; r < rows; ++r) {
                    const __m256i entries = table(from[r] + t * kTable);
                    const __m256i a = _mm256_shuffle_epi8(entries, low), b = _mm256_shuffle_epi8(entries, high);
                    acc[r][0] = _mm256_add_epi16(acc[r][0], _mm256_maddubs_epi16(a, plus));
                    acc[r][1] = _mm256_add_epi16(acc[r][1], _mm256_maddubs_epi16(b, more));
                }
            }
        }
        for (int r = 0; r < rows; ++r)
            for (int h = 0; h < 2; ++h) flush(sums[r] + 16 * h, acc[r][h]);
    }
}

void look_any(const uint8_t *const *tables, int64_t rows, const Segment *segments, int64_t count,
              int32_t (*sums)[kBlock]) {
    for (; rows > 0; rows -= 4, tables += 4, sums += 4)  // as many as registers hold
        (rows >= 4 ? look<4> : rows == 3 ? look<3> : rows == 2 ? look<2> : look<1>)(tables, segments, count, sums);
}

// The first `left` of eight lanes.
inline __m256i lanes(int64_t left) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(std::min<int64_t>(left, 8))), lane);
}

void add(const int8_t *q, int64_t n, int32_t *sums) {
    for (int64_t i = 0; i < n; ++i) sums[i] += q[i];
}

void write(const int32_t *sums, const int32_t *bias, float scale, uint32_t inside, int64_t channels, bool stream,
           float *out) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    for (int64_t c = 0; c < channels; c += 8) {
        const __m256 value =
            _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(load(sums + c), load(bias + c))), _mm256_set1_ps(scale));
        const __m256i bits = _mm256_set1_epi32(static_cast<int>(inside >> c));
        const __m256i kept = _mm256_cmpeq_epi32(_mm256_and_si256(bits, bit), bit);
        const __m256 result = _mm256_and_ps(value, _mm256_castsi256_ps(kept));
        if (stream)
            _mm256_stream_ps(out + c, result);
        else if (channels - c >= 8)
            _mm256_storeu_ps(out + c, result);
        else
            _mm256_maskstore_ps(out + c, lanes(channels - c), result);
    }
}

inline __m256i magnitude(__m256i bits) { return _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff)); }

int32_t largest(const float *x, int64_t n, int64_t width, int32_t *columns) {
    __m256i most = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i += width) {
        int64_t j = 0;
        for (; j + 8 <= width; j += 8) {
            const __m256i bits = magnitude(load(x + i + j));
            most = _mm256_max_epi32(most, bits);
            store(columns + j, _mm256_max_epi32(load(columns + j), bits));
        }
        if (j < width) {
            const __m256i mask = lanes(width - j);
            const __m256i bits = magnitude(_mm256_castps_si256(_mm256_maskload_ps(x + i + j, mask)));
            most = _mm256_max_epi32(most, bits);
            const __m256i before = _mm256_maskload_epi32(columns + j, mask);
            _mm256_maskstore_epi32(columns + j, mask, _mm256_max_epi32(before, bits));
        }
    }
    alignas(32) int32_t lane[8];
    store(lane, most);
    return *std::max_element(lane, lane + 8);
}

// Eight numbers, rounded and clipped, as int32.
inline __m256i rounded(__m256 x, __m256 inverse, __m256i uniform) {
    const __m256 u = _mm256_mul_ps(_mm256_cvtepi32_ps(uniform), _mm256_set1_ps(1.0f / 65536));
    __m256 y = _mm256_floor_ps(_mm256_add_ps(_mm256_mul_ps(x, inverse), u));
    y = _mm256_max_ps(y, _mm256_set1_ps(-31.0f));  // also where y is NaN, whose scale tells
    return _mm256_cvttps_epi32(_mm256_min_ps(y, _mm256_set1_ps(31.0f)));
}

// The lowest byte of each of eight lanes.
inline int64_t bytes(__m256i v) {
    const __m256i low = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,  //
                                         0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    v = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(v, low), _mm256_setr_epi32(0, 4, 1, 1, 1, 1, 1, 1));
    return _mm_cvtsi128_si64(_mm256_castsi256_si128(v));
}

void round(const float *x, int64_t n, int64_t width, float a, const float *b, uint32_t *state, int8_t *by_image,
           int8_t *by_filter) {
    __m256i s = load(state);
    const __m256 first = _mm256_set1_ps(a);
    for (int64_t i = 0; i < n; i += width)
        for (int64_t j = 0; j < width; j += 8) {
            s = _mm256_xor_si256(s, _mm256_slli_epi32(s, 13));
            s = _mm256_xor_si256(s, _mm256_srli_epi32(s, 17));
            s = _mm256_xor_si256(s, _mm256_slli_epi32(s, 5));
            const int64_t left = std::min<int64_t>(8, width - j);
            const __m256i mask = lanes(left);
            const __m256 value = left == 8 ? _mm256_loadu_ps(x + i + j) : _mm256_maskload_ps(x + i + j, mask);
            const __m256 second = left == 8 ? _mm256_loadu_ps(b + j) : _mm256_maskload_ps(b + j, mask);
            const int64_t image = bytes(rounded(value, first, _mm256_and_si256(s, _mm256_set1_epi32(0xffff))));
            const int64_t filter = bytes(rounded(value, second, _mm256_srli_epi32(s, 16)));
            std::memcpy(by_image + i + j, &image, left);
            std::memcpy(by_filter + i + j, &filter, left);
        }
    store(state, s);
}

}  // namespace

const GradientKernels gradient_avx2{split, build, spread, look_any, add, write, largest, round};

}  // namespace hypersign
