// Dot products of 8-bit queries with packed rows of levels, exact in 32-bit integers, and the k best scores.
//
// Of bit planes, lookup tables and multiplication, multiplication won:
// - vpdpbusd multiplies 64 levels by numbers of 8 bits, two instructions a cycle: one cycle for 128 levels of a row. Bit
//   planes of an 8-bit query take three instructions per plane and 512 bits: 24 for 512 levels of 1 bit, where
//   multiplication takes 8.
// - A lookup in a register (vpermb) adds up three levels of 2 bits of 64 rows, one instruction a cycle, and its sums of
//   8 bits must be widened: .8 to .9 cycles for 128 levels of a row, with a query that is rounded more.
// - The signs first, and the whole product only of rows that can still be among the best: a bound that holds always
//   (Cauchy-Schwarz for what the signs leave open) keeps 20 to 90 % of the rows. One of 3.5 standard deviations keeps 1
//   to 7 %, and results are those of the whole scan only nearly always. It gains for wide rows (pruning.hpp).
//
// Rows lie as on disk. A block of them is laid out with a byte for each level, rows side by side in the lanes of a
// register, so that no sum crosses lanes, and then meets hundreds of queries in the first cache.
#pragma once
#include <cstdint>
#include <vector>

#include "instruction_sets.hpp"

namespace hypersign {

constexpr int64_t kMostLevels = int64_t{1} << 16;  // of a row: sums of products stay below 2^31

// Levels of 1, 1.5, 2, 3, 4 or 6 bits. For a block 1.5 bits are first recoded as 2, 3 bits as 4, and 6 bits as the bytes
// of the block.
enum class LevelKind { one, three_halves, two, three, four, six };

// Number of queries in the next chunk, if `left` are left. Sums of 12 queries by two groups fill the registers.
constexpr int64_t level_chunk(int64_t left) { return left >= 12 ? 12 : left >= 4 ? 4 : 1; }

// Some rows of a block with some queries. The level of byte x is x - zero.
struct LevelTile {
    const uint8_t *block;  // (groups, steps, lanes, 4)
    int64_t groups, steps;
    int32_t zero;           // at most 63, and bytes at most 126; at most 3 and 6 for levels of 1 to 2 bits
    const int8_t *queries;  // in chunks, one after the other: (steps, queries of the chunk, 4)
    const int32_t *query_sums;
    int64_t query_count;
    int32_t *dots;  // (queries, groups lanes)

    int64_t query_bytes() const { return steps * 4; }
};

// Packed rows of a group, and the bytes that their digits stand for.
struct LevelGroup {
    const uint8_t *const *rows;  // one per lane
    int bits;                    // of a digit: 1, 2 or 4; or 8, then bytes stand for themselves
    int64_t steps;               // of four packed bytes of each row
    const uint8_t *table;        // (16)
    uint8_t *to;                 // (digits of a byte, steps, lanes, 4), the lowest digit first
};

// Scores of rows: (float(dot) step) a + b, each operation rounded to float32. Those that are not at or above the limit
// are wanted; so a limit that is NaN wants all.
struct LevelScores {
    int64_t count;
    const float *steps, *limits;  // for each query
    const float *a, *b;           // for each row, with space for whole registers
    int64_t pitch;                // of what is found for each query: 16 more than the rows
    uint32_t *positions;          // the rows of the wanted scores, ascending
    float *scores;
    int64_t *found;               // how many there are, for each query
};

// How rows get levels: the factors of thresholds between neighbouring levels, for every scale (scales, levels - 1).
struct LevelEncoding {
    int64_t count;  // of a row
    const int8_t *levels;
    int64_t level_count;  // 2, 3, 4, 8, 16 or 64
    const double *factors;
    int64_t scales;
};

struct PruningKernels;

struct LevelKernels {
    int64_t lanes;  // rows of a group: 16 or a divisor
    void (*unpack)(const LevelGroup &group);
    void (*dots)(const LevelTile &tile);
    // The wanted scores of a tile. `dots` of the tile may be overwritten.
    void (*select)(const LevelTile &tile, const LevelScores &scores);
    // A stored row of 1.5 or 3 bits in digits of 2 or 4 bits (recode.hpp).
    void (*recode)(LevelKind kind, int64_t count, const uint8_t *from, uint8_t *digits, uint8_t *to);
    // Indices of the levels of rows; x has space for a row (encode.hpp).
    void (*encode32)(const LevelEncoding &encoding, const float *rows, int64_t number, int16_t *x, uint8_t *to);
    void (*encode64)(const LevelEncoding &encoding, const double *rows, int64_t number, int16_t *x, uint8_t *to);
    const PruningKernels *pruning = nullptr;  // pruning.hpp; null: all rows get whole products
};

struct LevelTask {
    LevelKind kind;
    int64_t count;  // levels of a row
    const int8_t *queries;
    int64_t query_count;
    const uint8_t *rows;
    int64_t row_count, row_bytes;
    const uint8_t *allowed;  // a byte for each row, 0: it is not found; null: all are
    int threads;
    bool exact = true;  // false: rows may be skipped that would almost surely not be found
};

// Bytes of a packed row, without factors.
int64_t level_width(LevelKind kind, int64_t count);

// All dot products, (queries, rows).
void level_dots(const LevelTask &task, int32_t *dots);

// The k lowest scores of every query, (queries, k), lowest first; of equal ones the lower index first. Two float32
// numbers follow the levels of a row.
void level_nearest(const LevelTask &task, const float *steps, int64_t k, float *scores, int64_t *indices);

}  // namespace hypersign
