// Rows in 32-bit lanes, four levels of each. vpmaddubsw adds the products of two neighbours in 16 bits, which hold the
// sums of 21 steps of bytes up to 6. Bytes of levels of 3 to 6 bits reach 126 (2 * 126 * 127 < 2^15), so sums go to 32
// bits at every step.
//
// Two groups of rows meet four queries: eight sums in registers, for which a step takes six loads, eight multiplications
// and eight additions. On Zen 3 they would take four cycles; where each finds its port they take 5.3, a loop on registers
// alone, and 6.5 are reached: 39 products a cycle. Sums stay in registers only where the compiler is told so.
#include <immintrin.h>

#include <algorithm>
#include <type_traits>

#include "inline.hpp"
#include "levels/encode.hpp"
#include "levels/levels.hpp"
#include "levels/recode.hpp"

namespace hypersign {
namespace {

constexpr int32_t kFewZero = 3;  // of levels of 1 to 2 bits, whose bytes are at most 6
constexpr int64_t kSteps = 21;   // 21 * 2 * 6 * 127 < 2^15

HYPERSIGN_INLINE __m256i load(const uint8_t *from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)); }

// Keeps a sum there, updated in order: the compiler would mix the updates of all, and copy sums into memory.
HYPERSIGN_INLINE void in_a_register(__m256i &sum) { __asm__("" : "+x"(sum)); }

HYPERSIGN_INLINE __m256i four_numbers(const int8_t *from) {
    int32_t four;
    __builtin_memcpy(&four, from, 4);
    return _mm256_set1_epi32(four);
}

void unpack(const LevelGroup &group) {
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(group.table)));
    const __m256i mask = _mm256_set1_epi8(static_cast<char>((1 << group.bits) - 1));
    for (int64_t step = 0; step < group.steps; ++step) {
        alignas(32) uint8_t packed[32];
        for (int lane = 0; lane < 8; ++lane) __builtin_memcpy(packed + 4 * lane, group.rows[lane] + 4 * step, 4);
        uint8_t *to = group.to + 32 * step;
        for (int shift = 0; shift < 8; shift += group.bits, to += 32 * group.steps) {
            const __m256i digits = _mm256_and_si256(_mm256_srl_epi16(load(packed), _mm_cvtsi32_si128(shift)), mask);
            const __m256i bytes = group.bits == 8 ? digits : _mm256_shuffle_epi8(table, digits);
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), bytes);
        }
    }
}

// Q queries by G groups of eight rows, with their sums in registers: of 32 bits for rows of 3 to 6 bits (`Many`), else of
// 16 bits for kSteps steps, after which they are added to those in `dots`.
template <int G, int Q, int Chunk, bool Many>
__attribute__((noinline)) void tile_of(const LevelTile &tile, int64_t start_group, int64_t first, int64_t part) {
    const int64_t group = tile.steps * 32, pitch = 8 * tile.groups, round = Many ? tile.steps : kSteps;
    const uint8_t *x = tile.block + start_group * group;
    const int8_t *y = tile.queries + first * tile.query_bytes() + part * 4;
    int32_t *dots = tile.dots + (first + part) * pitch + 8 * start_group;
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t start = 0; start < tile.steps; start += round) {
        __m256i sums[Q][G] = {};
        for (int64_t step = start; step < std::min(tile.steps, start + round); ++step, x += 32, y += 4 * Chunk) {
            __m256i rows[G];
#pragma GCC unroll 4
            for (int g = 0; g < G; ++g) rows[g] = load(x + g * group);
#pragma GCC unroll 4
            for (int q = 0; q < Q; ++q) {
                const __m256i numbers = four_numbers(y + 4 * q);
#pragma GCC unroll 4
                for (int g = 0; g < G; ++g) {
                    const __m256i pairs = _mm256_maddubs_epi16(rows[g], numbers);
                    sums[q][g] = Many ? _mm256_add_epi32(sums[q][g], _mm256_madd_epi16(pairs, ones))
                                      : _mm256_add_epi16(sums[q][g], pairs);
                    in_a_register(sums[q][g]);
                }
            }
        }
#pragma GCC unroll 4
        for (int q = 0; q < Q; ++q) {
            const __m256i before = _mm256_set1_epi32(-tile.zero * tile.query_sums[first + part + q]);
#pragma GCC unroll 4
            for (int g = 0; g < G; ++g) {
                auto to = reinterpret_cast<__m256i *>(dots + q * pitch + 8 * g);
                const __m256i added = Many ? sums[q][g] : _mm256_madd_epi16(sums[q][g], ones);
                _mm256_storeu_si256(to, _mm256_add_epi32(start ? _mm256_loadu_si256(to) : before, added));
            }
        }
    }
}

// All queries of the chunk meet some groups before the next, which come from the second cache.
template <int G, int Q, int Chunk, bool Many>
void queries_of(const LevelTile &tile, int64_t first) {
    int64_t g = 0;
    const auto multiply = [&](auto groups) {
        constexpr int kGroups = decltype(groups)::value;
        for (; g + kGroups <= tile.groups; g += kGroups)
            for (int64_t part = 0; part < Chunk; part += Q) tile_of<kGroups, Q, Chunk, Many>(tile, g, first, part);
    };
    multiply(std::integral_constant<int, G>());
    multiply(std::integral_constant<int, 1>());
}

template <bool Many>
void all_queries(const LevelTile &tile) {
    int64_t chunk = 1;
    for (int64_t q = 0; q < tile.query_count; q += chunk) {
        chunk = level_chunk(tile.query_count - q);
        if (chunk == 1) queries_of<4, 1, 1, Many>(tile, q);
        if (chunk == 4) queries_of<2, 4, 4, Many>(tile, q);
        if (chunk == 12) queries_of<2, 4, 12, Many>(tile, q);
    }
}

void dots(const LevelTile &tile) {
    if (tile.zero > kFewZero)
        all_queries<true>(tile);
    else
        all_queries<false>(tile);
}

int64_t select_query(const LevelTile &tile, const LevelScores &scores, int64_t q) {
    const __m256 step = _mm256_set1_ps(scores.steps[q]), limit = _mm256_set1_ps(scores.limits[q]);
    const int32_t *dots = tile.dots + q * 8 * tile.groups;
    int64_t found = 0;
    for (int64_t i = 0; i < scores.count; i += 8) {
        const __m256 dot = _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(dots + i)));
        const __m256 scaled = _mm256_mul_ps(_mm256_mul_ps(dot, step), _mm256_loadu_ps(scores.a + i));
        const __m256 score = _mm256_add_ps(scaled, _mm256_loadu_ps(scores.b + i));
        int wanted = _mm256_movemask_ps(_mm256_cmp_ps(score, limit, _CMP_NGE_UQ));
        if (scores.count - i < 8) wanted &= (1 << (scores.count - i)) - 1;
        if (wanted == 0) continue;
        alignas(32) float each[8];
        _mm256_store_ps(each, score);
        for (; wanted != 0; wanted &= wanted - 1, ++found) {
            const int lane = __builtin_ctz(static_cast<unsigned>(wanted));
            scores.positions[q * scores.pitch + found] = static_cast<uint32_t>(i + lane);
            scores.scores[q * scores.pitch + found] = each[lane];
        }
    }
    return found;
}

void select(const LevelTile &tile, const LevelScores &scores) {
    dots(tile);
    for (int64_t q = 0; q < tile.query_count; ++q) scores.found[q] = select_query(tile, scores, q);
}

}  // namespace

const LevelKernels levels_avx2{8, unpack, dots, select, recode_levels, encode_rows<float>,
                               encode_rows<double>};

}  // namespace hypersign
