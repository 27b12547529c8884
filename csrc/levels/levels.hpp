// Dot products of 8-bit queries with packed rows of levels, exact in 32-bit integers, and the k best scores.
//
// Of bit planes, lookup tables and multiplication, multiplication won:
// - A row of 128 levels of 2 bits has 32 bytes and two factors. From memory it takes about 8 cycles, and less than 2
//   cycles of VNNI instructions. So one query waits for memory, whatever the kernel, and many queries are bound by
//   arithmetic once a block of rows is in the first cache.
// - vpdpbusd multiplies 64 levels by numbers of 8 bits, two instructions a cycle. Bit planes of an 8-bit query take
//   three instructions per plane and 512 bits: 24 for 512 levels of 1 bit, where multiplication takes 8 and 8 masks.
//   A lookup (vpshufb) adds up 64 numbers of 4 bits' levels at one a cycle, with sums that must be widened again.
// - A mask leaves the levels of one digit of every byte, and serves all queries of a tile; so does the table of 3 and
//   4 bits, whose levels are not evenly spaced.
//
// Rows lie as on disk, and are laid out in blocks of groups: rows side by side in the lanes of a register, so that no
// sum crosses lanes. Laying out costs about as much as one query, and needs no second copy of the codes.
#pragma once
#include <cstdint>
#include <vector>

#include "instruction_sets.hpp"

namespace hypersign {

constexpr int64_t kMostLevels = int64_t{1} << 16;  // of a row: sums of products stay below 2^31

// Levels of 1, 1.5, 2, 3 or 4 bits. In a block 1.5 bits take 2, and 3 bits take 4.
enum class LevelKind { one, three_halves, two, three, four };

// Number of queries in the next chunk, if `left` are left. Sums of 12 queries by two groups fill the registers.
constexpr int64_t level_chunk(int64_t left) { return left >= 12 ? 12 : left >= 4 ? 4 : 1; }

// Some rows of a block with some queries.
struct LevelTile {
    const uint8_t *block;  // (groups, steps, lanes, 4): digits of each row
    int64_t groups, steps;
    int digits;            // of a byte: 8, 4 or 2, the first in the lowest bits
    const int8_t *table;   // the 16 levels by digit; null: the level is the digit
    const int8_t *queries;  // in chunks, one after the other: (digits, steps, queries of the chunk, 4)
    const int32_t *query_sums;
    int64_t query_count;
    int32_t *dots;  // (queries, groups lanes)

    int64_t query_bytes() const { return digits * steps * 4; }
};

// Scores of a block's rows: (float(factor dot + offset) step) a + b, each operation rounded to float32.
struct LevelScores {
    const int32_t *dots;
    int64_t count;
    int32_t factor, offset;  // a factor of 1 or 2
    float step;
    const float *a, *b;  // with space for whole registers
    bool all;            // whether all scores are wanted; else those below the limit
    float limit;
    uint32_t *positions;  // those of the wanted ones, ascending, with space for 16 more
    float *scores;
};

struct LevelKernels {
    int64_t lanes;  // rows of a group: 16 or a divisor
    void (*dots)(const LevelTile &tile);
    int64_t (*select)(const LevelScores &scores);  // returns how many are wanted
    // A stored row of 1.5 or 3 bits in the digits of a block (recode.hpp).
    void (*recode)(LevelKind kind, int64_t count, const uint8_t *from, uint8_t *digits, uint8_t *to);
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
};

// Bytes of a packed row, without factors.
int64_t level_width(LevelKind kind, int64_t count);

// All dot products, (queries, rows).
void level_dots(const LevelTask &task, int32_t *dots);

// The k lowest scores of every query, (queries, k), lowest first; of equal ones the lower index first. Two float32
// numbers follow the levels of a row.
void level_nearest(const LevelTask &task, const float *steps, int64_t k, float *scores, int64_t *indices);

}  // namespace hypersign
