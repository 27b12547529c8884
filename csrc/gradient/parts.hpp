// What the two products share: memory of a thread, bits of rows, orders of numbers.
#pragma once
#include <cstdint>
#include <vector>

#include "gradient/gradient.hpp"

namespace hypersign {

constexpr int64_t kPiece = 128;          // tables whose indices stay in the L1 cache
constexpr int64_t kPair = 2 * kNumbers;  // numbers of two tables

// A thread's own memory for one purpose, kept from call to call, since fresh pages cost more than the work on them;
// aligned to cache lines.
struct Tables;
struct Indices;
struct Sums;
template <class Purpose>
inline uint8_t *scratch(int64_t bytes) {
    static thread_local std::vector<uint8_t> memory;
    if (memory.size() < static_cast<size_t>(bytes) + 64) memory.resize(static_cast<size_t>(bytes) + 64);
    return memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64);
}

// 32 bits of a row of `words` words, from bit `at` on; 0 past its end.
inline uint32_t bits_at(const uint64_t *row, int64_t words, int64_t at) {
    const int64_t word = at / 64, shift = at % 64;
    uint64_t bits = word < words ? row[word] >> shift : 0;
    if (shift > 32 && word + 1 < words) bits |= row[word + 1] << (64 - shift);
    return static_cast<uint32_t>(bits);
}

// The two choices of signs whose mean is a ternary level: both its sign, or +1 and -1 where it is 0.
inline uint32_t choice(int64_t plane, uint32_t sign, uint32_t nonzero) { return plane ? sign | ~nonzero : sign; }

// Where `spread` wants number n of two tables.
constexpr int64_t place(int64_t n) { return 4 * (n % 4) + n / 4; }

}  // namespace hypersign
