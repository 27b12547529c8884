// One row with binary weights, by lookup tables (VBMI). Six inputs have 64 sums of a subset; vpermb looks one up for each
// of 64 filters by six bits of a byte, and ignores the other two. Those of three vectors are a fourth index. So three
// vectors of weights, 24 inputs by 64 filters, take 8 lookups: sums are stored as two bytes, 32 high + low.
//
// Four of them are added in bytes (4 * 47 < 256), then to 16 bits: as they are, and shifted down for odd bytes. The
// even bytes' sum is the difference. All in all 25 instructions, of which a vector port takes 12.5 cycles: 123
// multiply-accumulates a cycle, where masks and vpdpbusd reach 64. Tables cost about 20 instructions per six inputs, which
// all filters share. A chunk of tables stays in the first cache.
#include <immintrin.h>

#include <algorithm>

#include "inline.hpp"
#include "product8/lookup.hpp"
#include "product8/product8.hpp"

namespace hypersign {
namespace {

constexpr int64_t kTriples = 44;        // of a chunk: 22 KB of tables; 16-bit sums do not overflow
constexpr int64_t kMostRows = 11;
constexpr int kTables = 4, kBias = 768;  // of a triple; six times 128, so that sums are not negative

// Inputs of a chunk as 16-bit numbers, two to a word: only words are broadcast by a load alone.
struct Inputs {
    int32_t words[8][3 * kTriples];
};

HYPERSIGN_INLINE __m512i broadcast(const int32_t &word) { return _mm512_set1_epi32(word); }

// Sums of the subsets of six inputs, as low and high bytes. vpackuswb puts bit 3 of the index between the others.
HYPERSIGN_INLINE void tabulate(const int32_t &x0, const int32_t &x1, const int32_t &x2, const int32_t &x3,
                               const int32_t &x4, const int32_t &x5, uint8_t *table) {
    __m512i a = _mm512_set1_epi16(kBias);
    a = _mm512_mask_add_epi16(a, 0xAAAAAAAA, a, broadcast(x0));
    a = _mm512_mask_add_epi16(a, 0xCCCCCCCC, a, broadcast(x1));
    a = _mm512_mask_add_epi16(a, 0xF0F0F0F0, a, broadcast(x2));
    a = _mm512_mask_add_epi16(a, 0xFF00FF00, a, broadcast(x4));
    a = _mm512_mask_add_epi16(a, 0xFFFF0000, a, broadcast(x5));
    const __m512i b = _mm512_add_epi16(a, broadcast(x3)), low = _mm512_set1_epi16(31);
    _mm512_store_si512(table, _mm512_packus_epi16(_mm512_and_si512(a, low), _mm512_and_si512(b, low)));
    _mm512_store_si512(table + 64, _mm512_packus_epi16(_mm512_srli_epi16(a, 5), _mm512_srli_epi16(b, 5)));
}

// The tables of `count` triples of vectors from the inputs x on.
void tabulate_chunk(const int8_t *x, int64_t vectors, int64_t count, uint8_t *tables) {
    Inputs inputs;
    for (int p = 0; p < 8; ++p)
        for (int64_t i = 0; i < 3 * count; ++i)
            inputs.words[p][i] = static_cast<int32_t>(static_cast<uint16_t>(x[p * vectors + i]) * 0x10001U);
    const auto &w = inputs.words;
    for (int64_t i = 0; i < 3 * count; i += 3, tables += kTables * 128) {
        for (int v = 0; v < 3; ++v)
            tabulate(w[0][i + v], w[1][i + v], w[2][i + v], w[3][i + v], w[4][i + v], w[5][i + v], tables + 128 * v);
        tabulate(w[6][i], w[7][i], w[6][i + 1], w[7][i + 1], w[6][i + 2], w[7][i + 2], tables + 128 * 3);
    }
}

// Adds the 16-bit sums of 32 filters to their 32-bit ones.
HYPERSIGN_INLINE void add(__m512i low, __m512i high, __m512i bias, int32_t *codes) {
    const __m512i zero = _mm512_setzero_si512();
    const __m512i first = _mm512_add_epi32(_mm512_unpacklo_epi16(low, zero),
                                           _mm512_slli_epi32(_mm512_unpacklo_epi16(high, zero), 5));
    const __m512i second = _mm512_add_epi32(_mm512_unpackhi_epi16(low, zero),
                                            _mm512_slli_epi32(_mm512_unpackhi_epi16(high, zero), 5));
    _mm512_storeu_si512(codes, _mm512_add_epi32(_mm512_loadu_si512(codes), _mm512_sub_epi32(first, bias)));
    _mm512_storeu_si512(codes + 16, _mm512_add_epi32(_mm512_loadu_si512(codes + 16), _mm512_sub_epi32(second, bias)));
}

// R rows; `next` are the weights to fetch. Tables are `pitch` bytes apart, codes `codes_pitch`.
template <int R>
void block(const uint8_t *weights, const uint8_t *next, int64_t triples, const uint8_t *tables, int64_t pitch, int32_t *codes,
           int64_t codes_pitch) {
    const __m512i first_two = _mm512_set1_epi8(0x03), first_four = _mm512_set1_epi8(0x0f);
    __m512i all[R][2], odd[R][2];
    for (int r = 0; r < R; ++r)
        for (int part = 0; part < 2; ++part) all[r][part] = odd[r][part] = _mm512_setzero_si512();
    for (int64_t t = 0; t < triples; ++t, weights += 3 * 64, next += 3 * 64, tables += kTables * 128) {
        __m512i index[kTables];
        for (int v = 0; v < 3; ++v) {
            index[v] = _mm512_loadu_si512(weights + 64 * v);
            __builtin_prefetch(next + 64 * v, 0, 3);
        }
        // The two highest bits of each.
        const __m512i two = _mm512_ternarylogic_epi32(first_two, _mm512_srli_epi16(index[0], 6),
                                                      _mm512_srli_epi16(index[1], 4), 0xCA);
        index[3] = _mm512_ternarylogic_epi32(first_four, two, _mm512_srli_epi16(index[2], 2), 0xCA);
        for (int r = 0; r < R; ++r)
            for (int part = 0; part < 2; ++part) {
                __m512i sum[kTables];
                for (int i = 0; i < kTables; ++i)
                    sum[i] = _mm512_permutexvar_epi8(index[i],
                                                     _mm512_load_si512(tables + r * pitch + 128 * i + 64 * part));
                const __m512i bytes =
                    _mm512_add_epi8(_mm512_add_epi8(sum[0], sum[1]), _mm512_add_epi8(sum[2], sum[3]));
                all[r][part] = _mm512_add_epi16(all[r][part], bytes);
                odd[r][part] = _mm512_add_epi16(odd[r][part], _mm512_srli_epi16(bytes, 8));
            }
    }
    const __m512i bias = _mm512_set1_epi32(static_cast<int>(triples * kTables * kBias));
    for (int r = 0; r < R; ++r) {
        __m512i even[2];
        for (int part = 0; part < 2; ++part)
            even[part] = _mm512_sub_epi16(all[r][part], _mm512_slli_epi16(odd[r][part], 8));
        add(even[0], even[1], bias, codes + r * codes_pitch);
        add(odd[r][0], odd[r][1], bias, codes + r * codes_pitch + 32);
    }
}

template <int R>
void rows_of(const Product8Row &row, int64_t at) {
    alignas(64) uint8_t tables[kTriples * kTables * 128];
    constexpr int64_t kAtOnce = kTriples / R, kPitch = kAtOnce * kTables * 128;
    const int64_t triples = row.vectors / 3, pitch = row.blocks * kProduct8Bytes;
    for (int64_t first = 0; first < triples; first += kAtOnce) {
        const int64_t count = std::min(kAtOnce, triples - first);
        for (int r = 0; r < R; ++r)
            tabulate_chunk(row.x + (at + r) * 8 * row.vectors + 3 * first, row.vectors, count, tables + r * kPitch);
        for (int64_t b = 0; b < row.blocks; ++b)
            block<R>(row.weights + (b * row.vectors + 3 * first) * kProduct8Bytes,
                     row.weights + ((b + 1) * row.vectors + 3 * first) * kProduct8Bytes, count, tables, kPitch,
                     row.codes + at * pitch + b * kProduct8Bytes, pitch);
    }
}

void rows(const Product8Row &row) {
    int64_t at = 0;
    for (; at + 2 <= row.rows; at += 2) rows_of<2>(row, at);
    if (at < row.rows) rows_of<1>(row, at);
}

void to_tile(const uint8_t *block, int64_t vectors, int half, uint8_t *weights) {
    const __m512i even = _mm512_set1_epi16(0x00FF);
    for (int64_t v = 0; v < vectors; v += kProduct8Quad, weights += kProduct8Step) {
        __m512i bytes[4], pair[2];
        for (int i = 0; i < 4; ++i) bytes[i] = _mm512_loadu_si512(block + (v + i) * kProduct8Bytes);
        for (int i = 0; i < 2; ++i)
            pair[i] = half == 0 ? _mm512_ternarylogic_epi32(even, bytes[2 * i], _mm512_slli_epi16(bytes[2 * i + 1], 8), 0xCA)
                                : _mm512_ternarylogic_epi32(even, _mm512_srli_epi16(bytes[2 * i], 8), bytes[2 * i + 1], 0xCA);
        _mm512_storeu_si512(weights, _mm512_unpacklo_epi16(pair[0], pair[1]));
        _mm512_storeu_si512(weights + 64, _mm512_unpackhi_epi16(pair[0], pair[1]));
    }
}

}  // namespace

const Product8Lookup product8_lookup_avx512{kMostRows, rows, product8_sums, product8_scaled, to_tile};

}  // namespace hypersign
