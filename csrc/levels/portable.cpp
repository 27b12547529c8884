#include "levels/encode.hpp"
#include "levels/levels.hpp"
#include "levels/recode.hpp"

namespace hypersign {
namespace {

void unpack(const LevelGroup &group) {
    const int mask = (1 << group.bits) - 1;
    uint8_t *to = group.to;
    for (int shift = 0; shift < 8; shift += group.bits)
        for (int64_t j = 0; j < 4 * group.steps; ++j) {
            const int digit = group.rows[0][j] >> shift & mask;
            *to++ = group.bits == 8 ? static_cast<uint8_t>(digit) : group.table[digit];
        }
}

void dots(const LevelTile &tile) {
    int64_t first = 0, chunk = 1;
    for (int64_t q = 0; q < tile.query_count; ++q) {
        if (q == first + chunk) first = q;
        if (q == first) chunk = level_chunk(tile.query_count - q);
        const int8_t *y = tile.queries + first * tile.query_bytes() + (q - first) * 4;
        for (int64_t row = 0; row < tile.groups; ++row) {
            const uint8_t *x = tile.block + row * tile.query_bytes();
            int32_t sum = -tile.zero * tile.query_sums[q];
            for (int64_t step = 0; step < tile.steps; ++step)
                for (int64_t j = 0; j < 4; ++j) sum += x[step * 4 + j] * y[step * chunk * 4 + j];
            tile.dots[q * tile.groups + row] = sum;
        }
    }
}

void select(const LevelTile &tile, const LevelScores &scores) {
    dots(tile);
    for (int64_t q = 0; q < tile.query_count; ++q) {
        int64_t found = 0;
        for (int64_t i = 0; i < scores.count; ++i) {
            const float score =
                static_cast<float>(tile.dots[q * tile.groups + i]) * scores.steps[q] * scores.a[i] + scores.b[i];
            scores.positions[q * scores.pitch + found] = static_cast<uint32_t>(i);
            scores.scores[q * scores.pitch + found] = score;
            found += !(score >= scores.limits[q]);
        }
        scores.found[q] = found;
    }
}

}  // namespace

const LevelKernels levels_portable{1, unpack, dots, select, recode_levels, encode_rows<float>,
                                   encode_rows<double>};

}  // namespace hypersign
