// Rows in 32-bit lanes, four levels of each. vpmaddubsw adds the products of two neighbours in 16 bits, which hold the
// sums of 16 steps of digits up to 3. The levels of a table reach 127: their absolute values are multiplied by the
// query with their signs, and sums go to 32 bits at every step.
#include <immintrin.h>

#include <algorithm>

#include "inline.hpp"
#include "levels/levels.hpp"
#include "levels/recode.hpp"

namespace hypersign {
namespace {

constexpr int64_t kSteps = 16;

HYPERSIGN_INLINE __m256i load(const uint8_t *from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)); }

// Q queries by G groups of eight rows.
template <int G, int Q, bool table>
HYPERSIGN_INLINE void tile_of(const LevelTile &tile, const uint8_t *block, const int8_t *queries, int64_t chunk,
                              int32_t *dots, int64_t pitch) {
    const int bits = 8 / tile.digits;
    const int64_t group = tile.steps * 32;
    const __m256i ones = _mm256_set1_epi16(1), mask = _mm256_set1_epi8(static_cast<char>((1 << bits) - 1));
    __m256i levels = mask;
    if (table) levels = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(tile.table)));
    __m256i sums[Q][G] = {};
    for (int digit = 0; digit < tile.digits; ++digit) {
        const __m128i shift = _mm_cvtsi32_si128(bits * digit);
        const int8_t *y = queries + digit * tile.steps * 4 * chunk;
        for (int64_t start = 0; start < tile.steps; start += kSteps) {
            __m256i shorts[Q][G] = {};
            for (int64_t step = start; step < std::min(tile.steps, start + kSteps); ++step) {
                __m256i picked[G];
                for (int g = 0; g < G; ++g) {
                    picked[g] = _mm256_and_si256(_mm256_srl_epi16(load(block + g * group + step * 32), shift), mask);
                    if (table) picked[g] = _mm256_shuffle_epi8(levels, picked[g]);
                }
                for (int q = 0; q < Q; ++q) {
                    int32_t four;
                    __builtin_memcpy(&four, y + (step * chunk + q) * 4, 4);
                    const __m256i numbers = _mm256_set1_epi32(four);
                    for (int g = 0; g < G; ++g)
                        if (table)
                            sums[q][g] = _mm256_add_epi32(
                                sums[q][g],
                                _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(picked[g]),
                                                                       _mm256_sign_epi8(numbers, picked[g])),
                                                  ones));
                        else
                            shorts[q][g] = _mm256_add_epi16(shorts[q][g], _mm256_maddubs_epi16(picked[g], numbers));
                }
            }
            if (table) continue;
            for (int q = 0; q < Q; ++q)
                for (int g = 0; g < G; ++g)
                    sums[q][g] = _mm256_add_epi32(sums[q][g], _mm256_madd_epi16(shorts[q][g], ones));
        }
    }
    for (int q = 0; q < Q; ++q)
        for (int g = 0; g < G; ++g)
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(dots + q * pitch + 8 * g), sums[q][g]);
}

template <int G, int Q, bool table>
void queries_of(const LevelTile &tile, int64_t first, int64_t chunk, int64_t part) {
    const int8_t *queries = tile.queries + first * tile.query_bytes() + part * 4;
    const int64_t pitch = 8 * tile.groups, group = tile.steps * 32;
    int32_t *dots = tile.dots + (first + part) * pitch;
    int64_t g = 0;
    for (; g + G <= tile.groups; g += G)
        tile_of<G, Q, table>(tile, tile.block + g * group, queries, chunk, dots + 8 * g, pitch);
    for (; g < tile.groups; ++g)
        tile_of<1, Q, table>(tile, tile.block + g * group, queries, chunk, dots + 8 * g, pitch);
}

template <bool table>
void all_queries(const LevelTile &tile) {
    int64_t chunk = 1;
    for (int64_t q = 0; q < tile.query_count; q += chunk) {
        chunk = level_chunk(tile.query_count - q);
        if (chunk == 1) queries_of<4, 1, table>(tile, q, 1, 0);
        for (int64_t part = 0; part + 4 <= chunk; part += 4) queries_of<1, 4, table>(tile, q, chunk, part);
    }
}

void dots(const LevelTile &tile) {
    if (tile.table != nullptr)
        all_queries<true>(tile);
    else
        all_queries<false>(tile);
}

int64_t select(const LevelScores &scores) {
    const __m256i factor = _mm256_set1_epi32(scores.factor), offset = _mm256_set1_epi32(scores.offset);
    const __m256 step = _mm256_set1_ps(scores.step), limit = _mm256_set1_ps(scores.limit);
    int64_t found = 0;
    for (int64_t i = 0; i < scores.count; i += 8) {
        const __m256i dots = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(scores.dots + i));
        const __m256i dot = _mm256_add_epi32(_mm256_mullo_epi32(dots, factor), offset);
        const __m256 scaled = _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(dot), step), _mm256_loadu_ps(scores.a + i));
        const __m256 score = _mm256_add_ps(scaled, _mm256_loadu_ps(scores.b + i));
        int wanted = scores.all ? 0xFF : _mm256_movemask_ps(_mm256_cmp_ps(score, limit, _CMP_LT_OQ));
        if (scores.count - i < 8) wanted &= (1 << (scores.count - i)) - 1;
        if (wanted == 0) continue;
        alignas(32) float each[8];
        _mm256_store_ps(each, score);
        for (; wanted != 0; wanted &= wanted - 1, ++found) {
            const int lane = __builtin_ctz(static_cast<unsigned>(wanted));
            scores.positions[found] = static_cast<uint32_t>(i + lane);
            scores.scores[found] = each[lane];
        }
    }
    return found;
}

}  // namespace

const LevelKernels levels_avx2{8, dots, select, recode_levels};

}  // namespace hypersign
