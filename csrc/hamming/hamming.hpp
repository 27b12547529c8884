// Hamming distances of packed codes. Codes are laid out in blocks, in an order of the instruction set; a block is
// then compared with one query after the other while it is in the L1 cache.
#pragma once
#include <cstdint>
#include <vector>

#include "instruction_sets.hpp"

namespace hypersign {

struct HammingKernels {
    // Lays `count` codes of `words` words out as a block, whose size is that of a multiple of 128 codes.
    void (*layout)(const uint64_t *codes, int64_t count, int64_t words, uint64_t *block);

    // Finds the codes of a block nearer to the query than `limit`: writes their positions in the block, ascending,
    // and distances, and returns how many there are.
    int64_t (*nearer)(const uint64_t *block, int64_t count, const uint64_t *query, int64_t words, int32_t limit,
                      uint32_t *positions, int32_t *distances);

    // Words of a block for each word of a code.
    int64_t expansion;
};


// Two sets of codes, row after row of `words` words, and the threads to compare them on. Where `allowed` is given, it has
// a byte per code, and those of 0 are skipped.
struct HammingTask {
    const uint64_t *queries;
    int64_t query_count;
    const uint64_t *codes;
    int64_t code_count;
    int64_t words;
    int threads;
    const uint8_t *allowed;
};

// All distances, (queries, codes), whatever is allowed.
void hamming_all(const HammingTask &task, int32_t *distances);

// The k nearest of every query, (queries, k), nearest first; of equal ones the lower index first. At least k codes are
// allowed.
void hamming_nearest(const HammingTask &task, int64_t k, int32_t *distances, int64_t *indices);

// The codes within `radius` of each query, nearest first: distance * 2^40 + index.
std::vector<std::vector<uint64_t>> hamming_within(const HammingTask &task, int32_t radius);

}  // namespace hypersign
