// Rows in the lanes of SDOT, four levels of each. Every register of levels serves four queries.
#include <arm_neon.h>

#include "levels/encode.hpp"
#include "levels/levels.hpp"
#include "levels/recode.hpp"

namespace hypersign {
namespace {

void unpack(const LevelGroup &group) {
    const uint8x16_t table = vld1q_u8(group.table), mask = vdupq_n_u8(static_cast<uint8_t>((1 << group.bits) - 1));
    for (int64_t step = 0; step < group.steps; ++step) {
        uint8_t packed[16];
        for (int lane = 0; lane < 4; ++lane) __builtin_memcpy(packed + 4 * lane, group.rows[lane] + 4 * step, 4);
        uint8_t *to = group.to + 16 * step;
        for (int shift = 0; shift < 8; shift += group.bits, to += 16 * group.steps) {
            const uint8x16_t digits = vandq_u8(vshlq_u8(vld1q_u8(packed), vdupq_n_s8(static_cast<int8_t>(-shift))), mask);
            vst1q_u8(to, group.bits == 8 ? digits : vqtbl1q_u8(table, digits));
        }
    }
}

template <int Q>
void queries_of(const LevelTile &tile, int64_t first, int64_t chunk, int64_t part) {
    for (int64_t g = 0; g < tile.groups; ++g) {
        int32x4_t sums[Q];
        for (int q = 0; q < Q; ++q) sums[q] = vdupq_n_s32(-tile.zero * tile.query_sums[first + part + q]);
        const uint8_t *rows = tile.block + g * tile.steps * 16;
        const int8_t *y = tile.queries + first * tile.query_bytes() + part * 4;
        for (int64_t step = 0; step < tile.steps; ++step, rows += 16, y += 4 * chunk) {
            const int8x16_t x = vreinterpretq_s8_u8(vld1q_u8(rows));
            for (int q = 0; q < Q; ++q) {
                int32_t four;
                __builtin_memcpy(&four, y + 4 * q, 4);
                sums[q] = vdotq_s32(sums[q], x, vreinterpretq_s8_s32(vdupq_n_s32(four)));
            }
        }
        for (int q = 0; q < Q; ++q) vst1q_s32(tile.dots + 4 * ((first + part + q) * tile.groups + g), sums[q]);
    }
}

void dots(const LevelTile &tile) {
    int64_t chunk = 1;
    for (int64_t q = 0; q < tile.query_count; q += chunk) {
        chunk = level_chunk(tile.query_count - q);
        if (chunk == 1) queries_of<1>(tile, q, 1, 0);
        for (int64_t part = 0; part + 4 <= chunk; part += 4) queries_of<4>(tile, q, chunk, part);
    }
}

int64_t select_query(const LevelTile &tile, const LevelScores &scores, int64_t q) {
    const float32x4_t limit = vdupq_n_f32(scores.limits[q]);
    const int32_t *dots = tile.dots + q * 4 * tile.groups;
    int64_t found = 0;
    for (int64_t i = 0; i < scores.count; i += 4) {
        const float32x4_t scaled =
            vmulq_f32(vmulq_n_f32(vcvtq_f32_s32(vld1q_s32(dots + i)), scores.steps[q]), vld1q_f32(scores.a + i));
        const float32x4_t score = vaddq_f32(scaled, vld1q_f32(scores.b + i));
        const uint32x4_t behind = vcgeq_f32(score, limit);
        if (vminvq_u32(behind) != 0) continue;
        float each[4];
        uint32_t far[4];
        vst1q_f32(each, score);
        vst1q_u32(far, behind);
        for (int64_t lane = 0; lane < 4 && i + lane < scores.count; ++lane)
            if (far[lane] == 0) {
                scores.positions[q * scores.pitch + found] = static_cast<uint32_t>(i + lane);
                scores.scores[q * scores.pitch + found++] = each[lane];
            }
    }
    return found;
}

void select(const LevelTile &tile, const LevelScores &scores) {
    dots(tile);
    for (int64_t q = 0; q < tile.query_count; ++q) scores.found[q] = select_query(tile, scores, q);
}

}  // namespace

const LevelKernels levels_neondot{4, unpack, dots, select, recode_levels, encode_rows<float>,
                                  encode_rows<double>};

}  // namespace hypersign
