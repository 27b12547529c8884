// Rows in the lanes of vpdpbusd, four levels of each. Digits are not moved: a mask leaves those of one place, which
// stand for digit << shift, and sums of places from the highest on are shifted down between places; where rows are
// short and queries many, shifting rows takes fewer instructions. Levels of a table
// are looked up (vpshufb) plus 128, because the first operand is unsigned; sums start at -128 times the query's sum.
// Twelve queries by two groups are 24 registers of sums; one query takes eight groups, whose sums do not wait for each
// other.
#include <immintrin.h>

#include <utility>

#include "inline.hpp"
#include "levels/levels.hpp"
#include "levels/recode.hpp"

namespace hypersign {
namespace {

// Adds the products of one digit of every byte. `moved`: rows are shifted, so that levels are not.
template <int G, int Q, int bits, bool table, bool moved, int digit>
HYPERSIGN_INLINE void add_digit(const LevelTile &tile, const uint8_t *rows, const int8_t *queries, __m512i levels,
                                __m512i (&sums)[Q][G]) {
    const __m512i mask = _mm512_set1_epi8(static_cast<char>(((1 << bits) - 1) << (moved ? 0 : bits * digit)));
    const int64_t group = tile.steps * 64;
    const int8_t *y = queries + digit * tile.steps * 4 * Q;
    for (int64_t step = 0; step < tile.steps; ++step, y += 4 * Q, rows += 64) {
        __m512i picked[G];
        for (int g = 0; g < G; ++g) {
            picked[g] = _mm512_loadu_si512(rows + g * group);
            if (moved && digit > 0) picked[g] = _mm512_srli_epi16(picked[g], bits * digit);
            picked[g] = _mm512_and_si512(picked[g], mask);
            if (table) picked[g] = _mm512_shuffle_epi8(levels, picked[g]);
        }
        for (int q = 0; q < Q; ++q) {
            int32_t four;
            __builtin_memcpy(&four, y + 4 * q, 4);
            const __m512i numbers = _mm512_set1_epi32(four);
            for (int g = 0; g < G; ++g) sums[q][g] = _mm512_dpbusd_epi32(sums[q][g], picked[g], numbers);
        }
    }
    if (!moved && digit > 0)
        for (int q = 0; q < Q; ++q)
            for (int g = 0; g < G; ++g) sums[q][g] = _mm512_srai_epi32(sums[q][g], bits);
}

// G groups by Q queries.
template <int G, int Q, int bits, bool table, bool moved, int... digits>
HYPERSIGN_INLINE void tile_of(const LevelTile &tile, const uint8_t *rows, const int8_t *queries,
                              const int32_t *query_sums, int32_t *dots, std::integer_sequence<int, digits...>) {
    __m512i sums[Q][G], levels = _mm512_setzero_si512();
    for (int q = 0; q < Q; ++q)
        for (int g = 0; g < G; ++g) sums[q][g] = _mm512_set1_epi32(table ? -128 * query_sums[q] : 0);
    if (table) {
        const __m128i signed_levels = _mm_loadu_si128(reinterpret_cast<const __m128i *>(tile.table));
        levels = _mm512_broadcast_i32x4(_mm_xor_si128(signed_levels, _mm_set1_epi8(-128)));
    }
    // The highest digit first.
    (add_digit<G, Q, bits, table, moved, 8 / bits - 1 - digits>(tile, rows, queries, levels, sums), ...);
    for (int q = 0; q < Q; ++q)
        for (int g = 0; g < G; ++g) _mm512_storeu_si512(dots + q * 16 * tile.groups + 16 * g, sums[q][g]);
}

template <int G, int Q, int bits, bool table, bool moved>
void queries_of(const LevelTile &tile, int64_t first) {
    const int8_t *queries = tile.queries + first * tile.query_bytes();
    const int32_t *query_sums = tile.query_sums + first;
    int32_t *dots = tile.dots + first * 16 * tile.groups;
    const auto digits = std::make_integer_sequence<int, 8 / bits>();
    int64_t g = 0;
    for (; g + G <= tile.groups; g += G)
        tile_of<G, Q, bits, table, moved>(tile, tile.block + g * tile.steps * 64, queries, query_sums, dots + 16 * g,
                                          digits);
    for (; g < tile.groups; ++g)
        tile_of<1, Q, bits, table, moved>(tile, tile.block + g * tile.steps * 64, queries, query_sums, dots + 16 * g,
                                          digits);
}

template <int bits, bool table>
void all_queries(const LevelTile &tile) {
    int64_t q = 0;
    for (; level_chunk(tile.query_count - q) == 12; q += 12) queries_of<2, 12, bits, table, true>(tile, q);
    for (; level_chunk(tile.query_count - q) == 4; q += 4) queries_of<4, 4, bits, table, table>(tile, q);
    for (; q < tile.query_count; ++q) queries_of<8, 1, bits, table, table>(tile, q);
}

void dots(const LevelTile &tile) {
    if (tile.digits == 8)
        all_queries<1, false>(tile);
    else if (tile.digits == 4)
        all_queries<2, false>(tile);
    else
        all_queries<4, true>(tile);
}

int64_t select(const LevelScores &scores) {
    const __m512i twice = _mm512_set1_epi32(1 - scores.factor), offset = _mm512_set1_epi32(scores.offset);
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512 step = _mm512_set1_ps(scores.step), limit = _mm512_set1_ps(scores.limit);
    const __mmask16 all = scores.all ? 0xFFFF : 0;
    int64_t found = 0;
    for (int64_t i = 0; i < scores.count; i += 16) {
        const __m512i digits = _mm512_loadu_si512(scores.dots + i);
        const __m512i dot = _mm512_add_epi32(_mm512_add_epi32(digits, offset), _mm512_and_si512(digits, twice));
        const __m512 scaled = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dot), step), _mm512_loadu_ps(scores.a + i));
        const __m512 score = _mm512_add_ps(scaled, _mm512_loadu_ps(scores.b + i));
        auto wanted = static_cast<__mmask16>(_mm512_cmp_ps_mask(score, limit, _CMP_LT_OQ) | all);
        if (scores.count - i < 16) wanted = static_cast<__mmask16>(wanted & ((1 << (scores.count - i)) - 1));
        if (wanted == 0) continue;
        const __m512i at = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int32_t>(i)));
        _mm512_storeu_si512(scores.positions + found, _mm512_maskz_compress_epi32(wanted, at));
        _mm512_storeu_ps(scores.scores + found, _mm512_maskz_compress_ps(wanted, score));
        found += __builtin_popcount(wanted);
    }
    return found;
}

}  // namespace

const LevelKernels levels_avx512{16, dots, select, recode_levels};

}  // namespace hypersign
