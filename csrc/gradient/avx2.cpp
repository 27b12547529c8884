#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "gradient/gradient.hpp"

namespace hypersign {
namespace {

inline __m256i load(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
inline void store(void *p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i *>(p), v); }

void split(const int8_t *from, int8_t (*four)[BUILD]) {
    // Bytes of each j together, in dwords; then a transposition of 4 x 4 dwords.
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (int half = 0; half < 2; ++half) {
        __m128i v[4];
        for (int i = 0; i < 4; ++i)
            v[i] = _mm_shuffle_epi8(
                _mm_loadu_si128(reinterpret_cast<const __m128i *>(from + 64 * half + 16 * i)), order);
        const __m128i a = _mm_unpacklo_epi32(v[0], v[1]), b = _mm_unpackhi_epi32(v[0], v[1]);
        const __m128i c = _mm_unpacklo_epi32(v[2], v[3]), d = _mm_unpackhi_epi32(v[2], v[3]);
        const __m128i rows[4] = {_mm_unpacklo_epi64(a, c), _mm_unpackhi_epi64(a, c), _mm_unpacklo_epi64(b, d),
                                 _mm_unpackhi_epi64(b, d)};
        for (int j = 0; j < 4; ++j) _mm_storeu_si128(reinterpret_cast<__m128i *>(four[j] + 16 * half), rows[j]);
    }
}

void build(const int8_t (*q)[BUILD], uint8_t *out, int64_t stride) {
    // Entry i of 32 tables in v[i]; then a transposition of 16 x 16 bytes in each half of the registers.
    __m256i v[TABLE], w[TABLE], twice[4];
    v[0] = _mm256_set1_epi8(TABLE_BIAS);
    for (int j = 0; j < 4; ++j) {
        const __m256i row = load(q[j]);
        twice[j] = _mm256_add_epi8(row, row);
        v[0] = _mm256_add_epi8(v[0], row);
    }
    for (int j = 0; j < 4; ++j)
        for (int i = 0; i < 1 << j; ++i) v[i | 1 << j] = _mm256_sub_epi8(v[i], twice[j]);
    for (int i = 0; i < 8; ++i) {  // rows i and i + 8 interleaved, four times over: byte t of every row in row t
        w[2 * i] = _mm256_unpacklo_epi8(v[i], v[i + 8]);
        w[2 * i + 1] = _mm256_unpackhi_epi8(v[i], v[i + 8]);
    }
    for (int i = 0; i < 8; ++i) {
        v[2 * i] = _mm256_unpacklo_epi8(w[i], w[i + 8]);
        v[2 * i + 1] = _mm256_unpackhi_epi8(w[i], w[i + 8]);
    }
    for (int i = 0; i < 8; ++i) {
        w[2 * i] = _mm256_unpacklo_epi8(v[i], v[i + 8]);
        w[2 * i + 1] = _mm256_unpackhi_epi8(v[i], v[i + 8]);
    }
    for (int i = 0; i < 8; ++i) {
        v[2 * i] = _mm256_unpacklo_epi8(w[i], w[i + 8]);
        v[2 * i + 1] = _mm256_unpackhi_epi8(w[i], w[i + 8]);
    }
    for (int t = 0; t < TABLE; ++t) {
        _mm_storeu_si128(reinterpret_cast<__m128i *>(out + t * stride), _mm256_castsi256_si128(v[t]));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(out + (t + TABLE) * stride), _mm256_extracti128_si256(v[t], 1));
    }
}

void spread(const uint64_t *words, uint8_t *out) {
    const __m256i bytes = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,  //
                                           2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
    for (int half = 0; half < 2; ++half) {
        __m256i index = _mm256_setzero_si256();
        for (int j = 0; j < 4; ++j) {
            const __m256i word = _mm256_set1_epi32(static_cast<int>(words[j] >> 32 * half));
            const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(word, bytes), bit), bit);
            index = _mm256_or_si256(index, _mm256_and_si256(set, _mm256_set1_epi8(1 << j)));
        }
        store(out + 32 * half, index);
    }
}

// 32 sums of bytes: their words, and the upper bytes apart.
struct Sums {
    __m256i words, upper;

    inline void add(__m256i table, __m256i index) {
        const __m256i bytes = _mm256_shuffle_epi8(table, index);
        words = _mm256_add_epi16(words, bytes);
        upper = _mm256_add_epi16(upper, _mm256_srli_epi16(bytes, 8));
    }

    // Into sums, or to what they hold already.
    template <bool first>
    inline void flush(int32_t *sums) const {
        const __m256i lower = _mm256_sub_epi16(words, _mm256_slli_epi16(upper, 8));
        const __m256i even = _mm256_unpacklo_epi16(lower, upper), odd = _mm256_unpackhi_epi16(lower, upper);
        add8<first>(sums, _mm256_castsi256_si128(even));
        add8<first>(sums + 8, _mm256_castsi256_si128(odd));
        add8<first>(sums + 16, _mm256_extracti128_si256(even, 1));
        add8<first>(sums + 24, _mm256_extracti128_si256(odd, 1));
    }

    template <bool first>
    static inline void add8(int32_t *sums, __m128i words) {
        const __m256i eight = _mm256_cvtepu16_epi32(words);
        store(sums, first ? eight : _mm256_add_epi32(load(sums), eight));
    }
};

inline __m256i table(const uint8_t *p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}

template <int rows, int halves>
void look(const uint8_t *const *tables, const Segment *segments, int64_t count, int32_t (*sums)[BLOCK]) {
    bool first = true;
    for (int64_t s = 0; s < count;) {
        Sums acc[rows][halves];
        for (int r = 0; r < rows; ++r)
            for (int h = 0; h < halves; ++h) acc[r][h].words = acc[r][h].upper = _mm256_setzero_si256();
        for (int64_t space = FLUSH; s < count && segments[s].tables <= space; ++s) {
            const Segment &segment = segments[s];
            space -= segment.tables;
            const uint8_t *from[rows], *index = segment.indices;
            for (int r = 0; r < rows; ++r) from[r] = tables[r] + segment.offset;
            for (int64_t t = 0; t < segment.tables; ++t) {
                __m256i channels[halves];
                for (int h = 0; h < halves; ++h) {
                    channels[h] = load(index + t * BLOCK + 32 * h);
                    asm("" : "+x"(channels[h]));  // loaded once, not again for every row
                }
                for (int r = 0; r < rows; ++r) {
                    const __m256i entries = table(from[r] + t * TABLE);
                    for (int h = 0; h < halves; ++h) acc[r][h].add(entries, channels[h]);
                }
            }
        }
        for (int r = 0; r < rows; ++r)
            for (int h = 0; h < halves; ++h)
                if (first)
                    acc[r][h].template flush<true>(sums[r] + 32 * h);
                else
                    acc[r][h].template flush<false>(sums[r] + 32 * h);
        first = false;
    }
}

void look_any(const uint8_t *const *tables, int64_t rows, const Segment *segments, int64_t count, int64_t channels,
              int32_t (*sums)[BLOCK]) {
    if (channels > 32)
        (rows == 2 ? look<2, 2> : look<1, 2>)(tables, segments, count, sums);
    else
        (rows == 2 ? look<2, 1> : look<1, 1>)(tables, segments, count, sums);
}

inline __m256i magnitude(__m256i bits) { return _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff)); }

// The first `left` of eight lanes.
inline __m256i lanes(int64_t left) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(std::min<int64_t>(left, 8))), lane);
}

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

const GradientKernels gradient_avx2{split, build, spread, look_any, largest, round};

}  // namespace hypersign
