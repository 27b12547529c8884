#include "levels/levels.hpp"
#include "levels/recode.hpp"

namespace hypersign {
namespace {

void dots(const LevelTile &tile) {
    const int bits = 8 / tile.digits, mask = (1 << bits) - 1;
    const int64_t width = 4 * tile.steps;
    int64_t first = 0, chunk = 1;
    for (int64_t q = 0; q < tile.query_count; ++q) {
        if (q == first + chunk) first = q;
        if (q == first) chunk = level_chunk(tile.query_count - q);
        for (int64_t row = 0; row < tile.groups; ++row) {
            const uint8_t *bytes = tile.block + row * width;
            int32_t sum = 0;
            for (int digit = 0; digit < tile.digits; ++digit) {
                const int8_t *y = tile.queries + first * tile.query_bytes() + (digit * width * chunk + (q - first) * 4);
                for (int64_t j = 0; j < width; ++j) {
                    const int code = bytes[j] >> (bits * digit) & mask;
                    sum += (tile.table != nullptr ? tile.table[code] : code) * y[j / 4 * chunk * 4 + j % 4];
                }
            }
            tile.dots[q * tile.groups + row] = sum;
        }
    }
}

int64_t select(const LevelScores &scores) {
    int64_t found = 0;
    for (int64_t i = 0; i < scores.count; ++i) {
        const auto dot = static_cast<float>(scores.factor * scores.dots[i] + scores.offset);
        const float score = dot * scores.step * scores.a[i] + scores.b[i];
        scores.positions[found] = static_cast<uint32_t>(i);
        scores.scores[found] = score;
        found += scores.all || score < scores.limit;
    }
    return found;
}

}  // namespace

const LevelKernels levels_portable{1, dots, select, recode_levels};

}  // namespace hypersign
