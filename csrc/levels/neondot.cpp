// Rows in the lanes of SDOT, four levels of each. A shift and a mask leave the digits of one place, a table (TBL) turns
// them into levels. Both serve four queries, whose sums are four registers by two groups.
#include <arm_neon.h>

#include "levels/levels.hpp"
#include "levels/recode.hpp"

namespace hypersign {
namespace {

template <int Q>
void queries_of(const LevelTile &tile, int64_t first, int64_t chunk, int64_t part) {
    const int bits = 8 / tile.digits;
    const uint8x16_t mask = vdupq_n_u8(static_cast<uint8_t>((1 << bits) - 1));
    const int8x16_t levels = tile.table != nullptr ? vld1q_s8(tile.table) : vdupq_n_s8(0);
    const int64_t pitch = 4 * tile.groups;
    for (int64_t g = 0; g < tile.groups; ++g) {
        int32x4_t sums[Q];
        for (int q = 0; q < Q; ++q) sums[q] = vdupq_n_s32(0);
        for (int digit = 0; digit < tile.digits; ++digit) {
            const int8x16_t shift = vdupq_n_s8(static_cast<int8_t>(-bits * digit));
            const uint8_t *rows = tile.block + g * tile.steps * 16;
            const int8_t *y = tile.queries + first * tile.query_bytes() + (digit * tile.steps * chunk + part) * 4;
            for (int64_t step = 0; step < tile.steps; ++step, rows += 16, y += 4 * chunk) {
                const uint8x16_t code = vandq_u8(vshlq_u8(vld1q_u8(rows), shift), mask);
                const int8x16_t picked =
                    tile.table != nullptr ? vqtbl1q_s8(levels, code) : vreinterpretq_s8_u8(code);
                for (int q = 0; q < Q; ++q) {
                    int32_t four;
                    __builtin_memcpy(&four, y + 4 * q, 4);
                    sums[q] = vdotq_s32(sums[q], picked, vreinterpretq_s8_s32(vdupq_n_s32(four)));
                }
            }
        }
        for (int q = 0; q < Q; ++q) vst1q_s32(tile.dots + (first + part + q) * pitch + 4 * g, sums[q]);
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

int64_t select(const LevelScores &scores) {
    const int32x4_t factor = vdupq_n_s32(scores.factor), offset = vdupq_n_s32(scores.offset);
    const float32x4_t limit = vdupq_n_f32(scores.limit);
    int64_t found = 0;
    for (int64_t i = 0; i < scores.count; i += 4) {
        const float32x4_t dot = vcvtq_f32_s32(vaddq_s32(vmulq_s32(vld1q_s32(scores.dots + i), factor), offset));
        const float32x4_t scaled = vmulq_f32(vmulq_n_f32(dot, scores.step), vld1q_f32(scores.a + i));
        const float32x4_t score = vaddq_f32(scaled, vld1q_f32(scores.b + i));
        const uint32x4_t wanted = vcltq_f32(score, limit);
        if (!scores.all && vmaxvq_u32(wanted) == 0) continue;
        float each[4];
        uint32_t near[4];
        vst1q_f32(each, score);
        vst1q_u32(near, wanted);
        for (int64_t lane = 0; lane < 4 && i + lane < scores.count; ++lane)
            if (scores.all || near[lane] != 0) {
                scores.positions[found] = static_cast<uint32_t>(i + lane);
                scores.scores[found++] = each[lane];
            }
    }
    return found;
}

}  // namespace

const LevelKernels levels_neondot{4, dots, select, recode_levels};

}  // namespace hypersign
