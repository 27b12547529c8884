// Max-pool of packed levels. It touches every word once or a few times with a single instruction: memory is the
// limit, so one portable file serves every instruction set.
#pragma once
#include <cstdint>

namespace hypersign {

struct PoolTask {
    int64_t images, height, width, words;  // of the input: each pixel has `words` words
    int64_t out_height, out_width;
    int64_t size[2], stride[2], padding[2];  // vertical, horizontal
    const uint64_t *flip;                    // `words` words: bit 1 where the result is negated
};

// Binary: the and of the bits.
void max_pool_binary(const PoolTask &task, const uint64_t *x, uint64_t *y);

// Ternary: -1 where all are -1, +1 where any is, else 0.
void max_pool_ternary(const PoolTask &task, const uint64_t *sign, const uint64_t *nonzero, uint64_t *y_sign,
                      uint64_t *y_nonzero);

}  // namespace hypersign
