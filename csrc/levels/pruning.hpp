// Skips rows by the signs of their levels: only rows whose sum of signs is large enough get a whole product.
//
//     S = sum of sgn(c_i) v_i,   D = sum of c_i v_i = <c, v>,   M = sum of |v_i|
//     S = M - cost,              cost = 2 sum of |v_i| where the signs of c_i and v_i differ
//
// For a query v in a random direction, S given D has the mean w D with w = sum|c_i| / sum c_i^2, and a standard deviation
// that is at most that of `Signs`. A row is among the best so far if D is at least D0 = (limit - b) / (a step), and it
// gets its whole product if S >= w D0 - kDeviations deviations. So a row that belongs to the results is skipped with
// a probability of at most that of a normal number below -kDeviations, 2 10^-4, and mostly far less.
//
// Six signs are the index of a cost in a register, for 64 rows at once: 22 lookups for 128 levels, and as many additions,
// of costs in bytes that stop at 255.
#pragma once
#include <cstdint>

#include "levels/levels.hpp"

namespace hypersign {

constexpr int64_t kPruningQueries = 4;  // in a tile

// Rows that were laid out for pruning, and some queries.
struct LevelPruning {
    int64_t groups, lookups;      // groups of 64 rows
    const uint8_t *indices;       // (groups, lookups, 64): six signs, 1 for a positive level
    const int16_t *products;      // (groups, 64), in the order of `pruning_place`
    const int16_t *offsets;       // the same
    const uint64_t *always;       // a bit for each row that is never skipped
    const uint8_t *costs[kPruningQueries];  // (lookups, 64)
    // A row passes if its cost is at most constant - offset * offset_scale + product * product_scale, multiplied as
    // fractions of 2^15.
    int16_t constants[kPruningQueries], offset_scales[kPruningQueries], product_scales[kPruningQueries];

    // For whole products.
    const uint8_t *rows;  // packed, `pitch` bytes each, a multiple of 32
    int64_t pitch;
    int bits;              // of a digit
    const uint8_t *table;  // (16)
    int32_t zero;
    const int8_t *numbers[kPruningQueries];  // (digits of a byte, pitch)
    int32_t sums[kPruningQueries];
    uint8_t *held;     // space for sums, (groups, kPruningQueries, 64)
    uint32_t *passed;  // space for positions of rows, (kPruningQueries, pitch of the scores)
};

// Where the numbers of row i of a group are: in the order in which vectors of 16 bits are narrowed to bytes.
constexpr int64_t pruning_place(int64_t i) { return i % 16 / 8 * 32 + i / 16 * 8 + i % 8; }

// What each row demands of S: (offset - product limit) / step. Numbers have space for whole groups.
struct PruningRows {
    int64_t count;
    float ratio;
    const int32_t *absolutes, *squares;
    const float *a, *b;
    float *product, *offset;
    uint64_t *always;
    int16_t *products, *offsets;  // with their largest sizes as 32767
    float *largest;               // of product and offset
};

constexpr float kPruningMost = 1e30F;  // larger products and offsets are not compared: such rows always pass

struct PruningKernels {
    // The signs of a tile's rows, and their sums |c_i| and c_i^2 over the levels where `used` is 255, (steps, 4).
    void (*signs)(const LevelTile &tile, const uint8_t *used, int64_t lookups, uint8_t *indices, int32_t *absolutes,
                  int32_t *squares);
    void (*weigh)(const PruningRows &rows);
    // The costs of a query's numbers (lookups, 6): in bytes, |number| scale if the sign differs.
    void (*costs)(const int8_t *numbers, int64_t lookups, float scale, uint8_t *to);
    // The wanted scores of kPruningQueries queries. Returns how many rows passed, of all queries together.
    int64_t (*prune)(const LevelPruning &pruning, const LevelScores &scores);
};

extern const PruningKernels pruning_avx512;

}  // namespace hypersign
