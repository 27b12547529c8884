// Packing numbers into bits. Binary: bit 1 = -1 (x < low), bit 0 = +1. Ternary, two planes: sign (bit 1 = -1) and
// non-zero (x < low or x >= high). Low bit first; bits past n are 0.
#pragma once
#include <cstdint>

#include "instruction_sets.hpp"

namespace hypersign {

// Packs rows x n numbers, row after row, into rows x ceil(n/64) words. `low` and `high` hold n limits, `flip` one row
// of words, bit 1 where the level is negated. Binary levels where `high` and `nonzero` are null. Limits of integers
// are of a wider type, so that one can lie beyond every x. Returns whether a NaN was met, which has no level.
template <class T, class Limit>
using Pack = bool (*)(const T *x, const Limit *low, const Limit *high, const uint64_t *flip, uint64_t *sign,
                      uint64_t *nonzero, int64_t rows, int64_t n);

struct PackKernels {
    Pack<float, float> float32;
    Pack<double, double> float64;
    Pack<int8_t, int16_t> int8;
    Pack<uint8_t, int16_t> uint8;  // booleans too
    Pack<int32_t, int64_t> int32;
};


// The loop over words. Compare::below(x, limit, count) gives the bits x < limit of `count` <= 64 numbers, and
// Compare::nan says whether it met a NaN. Compare must be local to its file: then this loop is compiled there, with
// that file's instructions, and never shared with another's.
template <class Compare, class T, class Limit>
bool pack_rows(const T *x, const Limit *low, const Limit *high, const uint64_t *flip, uint64_t *sign,
               uint64_t *nonzero, int64_t rows, int64_t n) {
    Compare compare;
    for (int64_t row = 0; row < rows; ++row, x += n)
        for (int64_t start = 0; start < n; start += 64) {
            const int64_t count = n - start < 64 ? n - start : 64;
            const uint64_t minus = compare.below(x + start, low + start, count);
            const uint64_t negated = flip[start / 64];
            if (high == nullptr) {
                *sign++ = minus ^ negated;
                continue;
            }
            const uint64_t all = ~uint64_t{0} >> (64 - count);
            const uint64_t plus = ~compare.below(x + start, high + start, count) & all;
            *nonzero++ = minus | plus;
            *sign++ = (minus ^ negated) & (minus | plus);
        }
    return compare.nan;
}

}  // namespace hypersign
