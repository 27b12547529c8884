// Rows in 32-bit lanes, four levels of each. vpmaddubsw adds the products of two neighbours in 16 bits, which hold the
// sums of 16 steps of bytes up to 6. Levels of 3 and 4 bits reach 127: their absolute values are multiplied by the
// query with their signs, and sums go to 32 bits at every step.
#include <immintrin.h>

#include <algorithm>

#include "inline.hpp"
#include "levels/encode.hpp"
#include "levels/levels.hpp"
#include "levels/recode.hpp"

namespace hypersign {
namespace {

constexpr int64_t kSteps = 16;

HYPERSIGN_INLINE __m256i load(const uint8_t *from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)); }

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

// Q queries by G groups of eight rows.
template <int G, int Q, bool wide>
HYPERSIGN_INLINE void tile_of(const LevelTile &tile, int64_t start_group, int64_t first, int64_t chunk, int64_t part) {
    const uint8_t *block = tile.block + start_group * tile.steps * 32;
    const int8_t *y = tile.queries + first * tile.query_bytes() + part * 4;
    const int64_t group = tile.steps * 32, pitch = 8 * tile.groups;
    const __m256i ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8(-128);
    __m256i sums[Q][G];
    for (int q = 0; q < Q; ++q)
        for (int g = 0; g < G; ++g)
            sums[q][g] = _mm256_set1_epi32(wide ? 0 : -tile.zero * tile.query_sums[first + part + q]);
    for (int64_t start = 0; start < tile.steps; start += kSteps) {
        __m256i shorts[Q][G] = {};
        for (int64_t step = start; step < std::min(tile.steps, start + kSteps); ++step) {
            __m256i x[G];
            for (int g = 0; g < G; ++g) {
                x[g] = load(block + g * group + step * 32);
                if (wide) x[g] = _mm256_xor_si256(x[g], flip);  // signed
            }
            for (int q = 0; q < Q; ++q) {
                int32_t four;
                __builtin_memcpy(&four, y + (step * chunk + q) * 4, 4);
                const __m256i numbers = _mm256_set1_epi32(four);
                for (int g = 0; g < G; ++g)
                    if (wide)
                        sums[q][g] = _mm256_add_epi32(
                            sums[q][g], _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(x[g]),
                                                                               _mm256_sign_epi8(numbers, x[g])),
                                                          ones));
                    else
                        shorts[q][g] = _mm256_add_epi16(shorts[q][g], _mm256_maddubs_epi16(x[g], numbers));
            }
        }
        if (wide) continue;
        for (int q = 0; q < Q; ++q)
            for (int g = 0; g < G; ++g)
                sums[q][g] = _mm256_add_epi32(sums[q][g], _mm256_madd_epi16(shorts[q][g], ones));
    }
    for (int q = 0; q < Q; ++q)
        for (int g = 0; g < G; ++g)
            _mm256_storeu_si256(
                reinterpret_cast<__m256i *>(tile.dots + (first + part + q) * pitch + 8 * (start_group + g)), sums[q][g]);
}

template <int G, int Q, bool wide>
void queries_of(const LevelTile &tile, int64_t first, int64_t chunk, int64_t part) {
    int64_t g = 0;
    for (; g + G <= tile.groups; g += G) tile_of<G, Q, wide>(tile, g, first, chunk, part);
    for (; g < tile.groups; ++g) tile_of<1, Q, wide>(tile, g, first, chunk, part);
}

template <bool wide>
void all_queries(const LevelTile &tile) {
    int64_t chunk = 1;
    for (int64_t q = 0; q < tile.query_count; q += chunk) {
        chunk = level_chunk(tile.query_count - q);
        if (chunk == 1) queries_of<4, 1, wide>(tile, q, 1, 0);
        for (int64_t part = 0; part + 4 <= chunk; part += 4) queries_of<1, 4, wide>(tile, q, chunk, part);
    }
}

void dots(const LevelTile &tile) {
    if (tile.zero == 128)
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
