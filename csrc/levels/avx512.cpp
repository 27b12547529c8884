// Rows in the lanes of vpdpbusd, four levels of each. Sums start at minus the query's sum times the byte of level 0, so
// they end as dot products. Twelve queries by two groups are 24 registers of sums; one query takes eight groups, whose
// sums do not wait for each other. Scores are compared with the limits before sums leave their registers.
#include <immintrin.h>

#include "inline.hpp"
#include "levels/encode.hpp"
#include "levels/levels.hpp"
#include "levels/recode.hpp"
#include "levels/registers.hpp"
#include "levels/pruning.hpp"

namespace hypersign {
namespace {

HYPERSIGN_INLINE __m128i four_rows(const uint8_t *const *rows, int64_t step) {
    const __m256i addresses = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(rows));
    return _mm256_i64gather_epi32(reinterpret_cast<const int *>(4 * step), addresses, 1);
}

void unpack(const LevelGroup &group) {
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(group.table)));
    const __m512i mask = _mm512_set1_epi8(static_cast<char>((1 << group.bits) - 1));
    for (int64_t step = 0; step < group.steps; ++step) {
        __m512i packed = _mm512_setzero_si512();
        packed = _mm512_inserti32x4(packed, four_rows(group.rows, step), 0);
        packed = _mm512_inserti32x4(packed, four_rows(group.rows + 4, step), 1);
        packed = _mm512_inserti32x4(packed, four_rows(group.rows + 8, step), 2);
        packed = _mm512_inserti32x4(packed, four_rows(group.rows + 12, step), 3);
        uint8_t *to = group.to + 64 * step;
        for (int shift = 0; shift < 8; shift += group.bits, to += 64 * group.steps) {
            const __m512i digits = _mm512_and_si512(_mm512_srl_epi16(packed, _mm_cvtsi32_si128(shift)), mask);
            _mm512_storeu_si512(to, group.bits == 8 ? digits : _mm512_shuffle_epi8(table, digits));
        }
    }
}

// The dot products of G groups and Q queries.
template <int G, int Q>
HYPERSIGN_INLINE void multiply(const LevelTile &tile, int64_t first_group, int64_t first, int32_t *to, int64_t pitch) {
    const auto groups = std::make_integer_sequence<int, G>();
    const auto queries = std::make_integer_sequence<int, Q>();
    const int64_t group = tile.steps * 64;
    const uint8_t *rows = tile.block + first_group * group;
    const int8_t *y = tile.queries + first * tile.query_bytes();
    __m512i sums[Q][G] = {};
    for (int64_t step = 0; step < tile.steps; ++step, y += 4 * Q, rows += 64) {
        __m512i x[G];
        each(groups, [&](auto g) { x[g] = _mm512_loadu_si512(rows + g * group); });
        each(queries, [&](auto q) {
            int32_t four;
            __builtin_memcpy(&four, y + 4 * q, 4);
            const __m512i numbers = _mm512_set1_epi32(four);
            each(groups, [&](auto g) { sums[q][g] = with_products(sums[q][g], x[g], numbers); });
        });
    }
    each(queries, [&](auto q) {
        const __m512i zero = _mm512_set1_epi32(tile.zero * tile.query_sums[first + q]);
        each(groups, [&](auto g) { _mm512_storeu_si512(to + q * pitch + 16 * g, _mm512_sub_epi32(sums[q][g], zero)); });
    });
}

struct Store {
    const LevelTile &tile;

    template <int G, int Q>
    void use(int64_t group, int64_t first) const {
        const int64_t pitch = 16 * tile.groups;
        multiply<G, Q>(tile, group, first, tile.dots + first * pitch + 16 * group, pitch);
    }
};

struct Select {
    const LevelTile &tile;
    const LevelScores &scores;

    template <int G, int Q>
    void use(int64_t group, int64_t first) const {
        alignas(64) int32_t dots[Q][G][16];
        multiply<G, Q>(tile, group, first, dots[0][0], 16 * G);
        compare<G, Q>(group, first, dots);
    }

    template <int G, int Q>
    __attribute__((noinline)) void compare(int64_t group, int64_t first, const int32_t (&dots)[Q][G][16]) const {
        __m512 a[G], b[G];
        for (int g = 0; g < G; ++g) {
            a[g] = _mm512_loadu_ps(scores.a + 16 * (group + g));
            b[g] = _mm512_loadu_ps(scores.b + 16 * (group + g));
        }
        for (int q = 0; q < Q; ++q) {
            const __m512 step = _mm512_set1_ps(scores.steps[first + q]);
            const __m512 limit = _mm512_set1_ps(scores.limits[first + q]);
            for (int g = 0; g < G; ++g) {
                const __m512 dot = _mm512_cvtepi32_ps(_mm512_load_si512(dots[q][g]));
                const __m512 score = _mm512_add_ps(_mm512_mul_ps(_mm512_mul_ps(dot, step), a[g]), b[g]);
                const __mmask16 wanted = _mm512_cmp_ps_mask(score, limit, _CMP_NGE_UQ);
                if (__builtin_expect(wanted != 0, 0)) keep(first + q, 16 * (group + g), wanted, score);
            }
        }
    }

    void keep(int64_t q, int64_t row, __mmask16 wanted, __m512 score) const {
        const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        if (scores.count - row < 16) wanted = static_cast<__mmask16>(wanted & ((1 << (scores.count - row)) - 1));
        const int64_t at = q * scores.pitch + scores.found[q];
        const __m512i rows = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int32_t>(row)));
        _mm512_storeu_si512(scores.positions + at, _mm512_maskz_compress_epi32(wanted, rows));
        _mm512_storeu_ps(scores.scores + at, _mm512_maskz_compress_ps(wanted, score));
        scores.found[q] += __builtin_popcount(wanted);
    }
};

// All groups with Q queries, G at a time.
template <int G, int Q, class Work>
void all_groups(const LevelTile &tile, int64_t first, const Work &work) {
    int64_t g = 0;
    for (; g + G <= tile.groups; g += G) work.template use<G, Q>(g, first);
    for (; g < tile.groups; ++g) work.template use<1, Q>(g, first);
}

template <class Work>
void all_queries(const LevelTile &tile, const Work &work) {
    int64_t q = 0;
    for (; level_chunk(tile.query_count - q) == 12; q += 12) all_groups<2, 12>(tile, q, work);
    for (; level_chunk(tile.query_count - q) == 4; q += 4) all_groups<4, 4>(tile, q, work);
    for (; q < tile.query_count; ++q) all_groups<8, 1>(tile, q, work);
}

void dots(const LevelTile &tile) { all_queries(tile, Store{tile}); }

void select(const LevelTile &tile, const LevelScores &scores) {
    for (int64_t q = 0; q < tile.query_count; ++q) scores.found[q] = 0;
    all_queries(tile, Select{tile, scores});
}

}  // namespace

const LevelKernels levels_avx512{16, unpack, dots, select, recode_levels, encode_rows<float>,
                                 encode_rows<double>, &pruning_avx512};

}  // namespace hypersign
