// One row with binary weights, by lookup tables. Four inputs have 16 sums of a subset; vpshufb looks one up for each of 32
// filters by four bits of a byte. Sums are stored as two bytes, 32 high + low, of five bits each, so eight of them are
// added in bytes (8 * 31 < 256). vpmaddubsw makes 16-bit sums of both, which hold eight such additions.
//
// A vector of 32 bytes of weights is 256 multiply-accumulates of a row: three instructions find its indices, four look
// up, 3.5 add, 1.5 make 16-bit sums, and four loads broadcast tables. Zen 3 does four vector instructions and two such
// loads a cycle: at most 85 multiply-accumulates a cycle, 99 with two rows, which share the indices. It reaches 39 with
// four rows, where vpmaddubsw from codes reaches 32 (benchmarks/bench_product8.py; avx2.cpp). Tables cost about 36
// instructions per eight inputs, which all filters share.
#include <immintrin.h>

#include <algorithm>

#include "inline.hpp"
#include "product8/lookup.hpp"
#include "product8/product8.hpp"

namespace hypersign {
namespace {

constexpr int64_t kVectors = 264;    // whose tables, 17 KB, stay in the first cache
constexpr int kTables = 64;          // bytes of the tables of a vector: of both halves of a byte, low and high sums
constexpr int kBias = 4 * 128;       // so that sums are not negative
constexpr int64_t kBytes = 4;        // vectors whose sums fit in bytes
constexpr int64_t kShorts = 32;      // vectors whose sums fit in 16 bits: 8 * 8 * (2^10 - 1) < 2^16
constexpr int64_t kMostRows = 31;
alignas(16) constexpr uint8_t kApart[16] = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};

// The sums of the subsets of four inputs, low bytes and then high ones.
HYPERSIGN_INLINE void tabulate(const int8_t *x, int64_t pitch, const __m256i (&masks)[4], uint8_t *table) {
    __m256i sum = _mm256_set1_epi16(kBias);
    for (int i = 0; i < 4; ++i)
        sum = _mm256_add_epi16(sum, _mm256_and_si256(_mm256_set1_epi16(x[i * pitch]), masks[i]));
    const __m256i low = _mm256_and_si256(sum, _mm256_set1_epi16(31)), high = _mm256_srli_epi16(sum, 5);
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(low, high), _MM_SHUFFLE(3, 1, 2, 0));
    _mm256_store_si256(reinterpret_cast<__m256i *>(table), bytes);
}

// The tables of `count` vectors from the inputs x on, whose parts are `pitch` apart.
void tabulate_chunk(const int8_t *x, int64_t pitch, int64_t count, uint8_t *tables) {
    __m256i masks[4];  // of the subsets that have an input
    for (int i = 0; i < 4; ++i) {
        alignas(32) int16_t mask[16];
        for (int subset = 0; subset < 16; ++subset) mask[subset] = static_cast<int16_t>(-(subset >> i & 1));
        masks[i] = _mm256_load_si256(reinterpret_cast<const __m256i *>(mask));
    }
    for (int64_t v = 0; v < count; ++v, ++x, tables += kTables) {
        tabulate(x, pitch, masks, tables);
        tabulate(x + 4 * pitch, pitch, masks, tables + kTables / 2);
    }
}

HYPERSIGN_INLINE __m256i both_lanes(const uint8_t *table) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i *>(table)));
}

// Adds 16-bit sums, less their biases, to 32-bit ones.
HYPERSIGN_INLINE void add(__m256i shorts, __m256i bias, int32_t *low, int32_t *high) {
    const __m256i zero = _mm256_setzero_si256();
    const auto more = [&](int32_t *to, __m256i sums) {
        auto *const at = reinterpret_cast<__m256i *>(to);
        _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), _mm256_sub_epi32(sums, bias)));
    };
    more(low, _mm256_unpacklo_epi16(shorts, zero));
    more(high, _mm256_unpackhi_epi16(shorts, zero));
}

// R rows with half a block, 32 bytes of each vector; the first half fetches the next block. Tables are `pitch` bytes
// apart, codes `codes_pitch`.
template <int R, int half>
void half_block(const uint8_t *weights, const uint8_t *next, int64_t vectors, const uint8_t *tables, int64_t pitch,
                int32_t *codes, int64_t codes_pitch) {
    const __m256i nibble = _mm256_set1_epi8(15), weigh = _mm256_set1_epi16(1 | 32 << 8);
    for (int64_t first = 0; first < vectors; first += kShorts) {
        const int64_t end = std::min(first + kShorts, vectors);
        __m256i shorts[R][2];
        for (int r = 0; r < R; ++r)
            for (int part = 0; part < 2; ++part) shorts[r][part] = _mm256_setzero_si256();
        for (int64_t start = first; start < end; start += kBytes) {
            __m256i low[R], high[R];
            for (int r = 0; r < R; ++r) low[r] = high[r] = _mm256_setzero_si256();
#pragma GCC unroll 4
            for (int64_t v = start; v < start + kBytes; ++v) {
                if (half == 0) __builtin_prefetch(next + v * kProduct8Bytes, 0, 3);
                const __m256i bytes =
                    _mm256_loadu_si256(reinterpret_cast<const __m256i *>(weights + v * kProduct8Bytes + 32 * half));
                const __m256i index[2] = {_mm256_and_si256(bytes, nibble),
                                          _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble)};
                for (int r = 0; r < R; ++r)
                    for (int four = 0; four < 2; ++four) {
                        const uint8_t *table = tables + r * pitch + v * kTables + four * (kTables / 2);
                        low[r] = _mm256_add_epi8(low[r], _mm256_shuffle_epi8(both_lanes(table), index[four]));
                        high[r] = _mm256_add_epi8(high[r], _mm256_shuffle_epi8(both_lanes(table + 16), index[four]));
                    }
            }
            for (int r = 0; r < R; ++r) {
                shorts[r][0] = _mm256_add_epi16(
                    shorts[r][0], _mm256_maddubs_epi16(_mm256_unpacklo_epi8(low[r], high[r]), weigh));
                shorts[r][1] = _mm256_add_epi16(
                    shorts[r][1], _mm256_maddubs_epi16(_mm256_unpackhi_epi8(low[r], high[r]), weigh));
            }
        }
        // In a lane, four filters below 32 and four from 32 on are interleaved.
        const __m256i bias = _mm256_set1_epi32(static_cast<int>((end - first) * 2 * kBias));
        const __m256i apart = both_lanes(kApart);
        for (int r = 0; r < R; ++r)
            for (int part = 0; part < 2; ++part) {
                const __m256i sums = _mm256_shuffle_epi8(shorts[r][part], apart);
                int32_t *const to = codes + r * codes_pitch + 16 * part + 8 * half;
                add(sums, bias, to, to + 32);
            }
    }
}

template <int R>
void rows_of(const Product8Row &row, int64_t at) {
    alignas(64) uint8_t tables[kVectors * kTables];
    constexpr int64_t kAtOnce = kVectors / R, kPitch = kAtOnce * kTables;
    const int64_t pitch = row.blocks * kProduct8Bytes;
    for (int64_t first = 0; first < row.vectors; first += kAtOnce) {
        const int64_t count = std::min(kAtOnce, row.vectors - first);
        for (int r = 0; r < R; ++r)
            tabulate_chunk(row.x + (at + r) * 8 * row.vectors + first, row.vectors, count, tables + r * kPitch);
        for (int64_t b = 0; b < row.blocks; ++b) {
            const uint8_t *weights = row.weights + (b * row.vectors + first) * kProduct8Bytes;
            const uint8_t *next = weights + row.vectors * kProduct8Bytes;
            int32_t *const codes = row.codes + at * pitch + b * kProduct8Bytes;
            half_block<R, 0>(weights, next, count, tables, kPitch, codes, pitch);
            half_block<R, 1>(weights, next, count, tables, kPitch, codes, pitch);
        }
    }
}

void rows(const Product8Row &row) {
    int64_t at = 0;
    for (; at + 2 <= row.rows; at += 2) rows_of<2>(row, at);
    if (at < row.rows) rows_of<1>(row, at);
}

void to_tile(const uint8_t *block, int64_t vectors, int half, uint8_t *weights) {
    const __m256i even = _mm256_set1_epi16(0x00FF);
    for (int64_t v = 0; v < vectors; v += kProduct8Quad, weights += kProduct8Step)
        for (int part = 0; part < 2; ++part) {
            __m256i bytes[4], pair[2];
            for (int i = 0; i < 4; ++i)
                bytes[i] = _mm256_loadu_si256(
                    reinterpret_cast<const __m256i *>(block + (v + i) * kProduct8Bytes + 32 * part));
            for (int i = 0; i < 2; ++i)
                pair[i] = half == 0 ? _mm256_or_si256(_mm256_and_si256(bytes[2 * i], even),
                                                      _mm256_slli_epi16(bytes[2 * i + 1], 8))
                                    : _mm256_or_si256(_mm256_srli_epi16(bytes[2 * i], 8),
                                                      _mm256_andnot_si256(even, bytes[2 * i + 1]));
            auto *const to = reinterpret_cast<__m256i *>(weights + 32 * part);
            _mm256_storeu_si256(to, _mm256_unpacklo_epi16(pair[0], pair[1]));
            _mm256_storeu_si256(to + 2, _mm256_unpackhi_epi16(pair[0], pair[1]));
        }
}

}  // namespace

const Product8Lookup product8_lookup_avx2{kMostRows, rows, product8_sums, product8_scaled, to_tile};

}  // namespace hypersign
