// Bits of rows of words, copied and counted.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace hypersign {

// `count` bits, at most 32, of a row of words.
inline uint32_t bits_at(const uint64_t *row, int64_t first, int64_t count) {
    const int64_t shift = first % 64;
    uint64_t bits = row[first / 64] >> shift;
    if (shift + count > 64) bits |= row[first / 64 + 1] << (64 - shift);
    return static_cast<uint32_t>(bits & (~uint64_t{0} >> (64 - count)));
}

// Copies `count` bits to a destination whose bits are 0.
inline void copy_bits(const uint64_t *from, int64_t first, int64_t count, uint32_t *to, int64_t at) {
    for (int64_t i = 0; i < count;) {
        const int64_t shift = (at + i) % 32, size = std::min(count - i, 32 - shift);
        to[(at + i) / 32] |= bits_at(from, first + i, size) << shift;
        i += size;
    }
}

inline void set_bits(uint32_t *to, int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) to[i / 32] |= uint32_t{1} << (i % 32);
}

// Counts in pairs, fours and eights of bits at a time, as vectors do without an instruction for it (Warren, Hacker's
// Delight, section 5-1).
inline int32_t count_bits(const uint32_t *words, int64_t n) {
    uint32_t count = 0;
    for (int64_t i = 0; i < n; ++i) {
        uint32_t x = words[i];
        x -= x >> 1 & 0x55555555u;
        x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
        x = (x + (x >> 4)) & 0x0f0f0f0fu;
        x += x >> 8;
        count += (x + (x >> 16)) & 0x3fu;
    }
    return static_cast<int32_t>(count);
}

// Packs booleans, and pads them with zeros to `padded`, a multiple of 16.
inline std::vector<uint16_t> pack_booleans(const bool *values, int64_t n, int64_t padded) {
    std::vector<uint16_t> bits(padded / 16);
    for (int64_t i = 0; i < n; i += 8) {
        uint64_t eight = 0;
        std::memcpy(&eight, values + i, std::min<int64_t>(8, n - i));
        // Byte j, times 2^(56 - 7 j), has its bit at 56 + j; no two bits of the product meet.
        const uint64_t byte = (eight & 0x0101010101010101u) * 0x0102040810204080u >> 56;
        bits[i / 16] |= static_cast<uint16_t>(byte << (i % 16));
    }
    return bits;
}

}  // namespace hypersign
