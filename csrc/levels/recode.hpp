// A stored row of 1.5, 3 or 6 bits per level in the digits of a block. In an anonymous namespace: each instruction set
// compiles the loops with its own vectors.
#pragma once
#include "integers.hpp"
#include "levels/levels.hpp"

namespace hypersign {
namespace {

// Digit `plane / power % base` of every byte, times a factor.
template <int base, int power, int factor>
void level_digit(const uint8_t *plane, int64_t width, uint8_t *to) {
    for (int64_t j = 0; j < width; ++j) {
        const auto digit = static_cast<uint8_t>(plane[j] / power % base * factor);
        to[j] = factor == 1 ? digit : static_cast<uint8_t>(to[j] + digit);
    }
}

// `digits` has space for 64 more than the levels.
void recode_levels(LevelKind kind, int64_t count, const uint8_t *from, uint8_t *digits, uint8_t *to) {
    if (kind == LevelKind::three_halves) {
        const int64_t width = ceil_div(count, 5), four = ceil_div(count, 4);
        level_digit<3, 1, 1>(from, width, digits);
        level_digit<3, 3, 1>(from, width, digits + width);
        level_digit<3, 9, 1>(from, width, digits + 2 * width);
        level_digit<3, 27, 1>(from, width, digits + 3 * width);
        level_digit<3, 81, 1>(from, width, digits + 4 * width);
        for (int64_t j = 0; j < four; ++j)
            to[j] = static_cast<uint8_t>(digits[j] | digits[four + j] << 2 | digits[2 * four + j] << 4 |
                                         digits[3 * four + j] << 6);
        return;
    }
    if (kind == LevelKind::six) {
        const int64_t low = ceil_div(count, 2), high = ceil_div(count, 4);
        const uint8_t *upper = from + low;
        level_digit<16, 1, 1>(from, low, digits);
        level_digit<16, 16, 1>(from, low, digits + low);
        level_digit<4, 1, 16>(upper, high, digits);
        level_digit<4, 4, 16>(upper, high, digits + high);
        level_digit<4, 16, 16>(upper, high, digits + 2 * high);
        level_digit<4, 64, 16>(upper, high, digits + 3 * high);
        for (int64_t j = 0; j < count; ++j) to[j] = static_cast<uint8_t>(2 * digits[j]);  // its level + 63
        return;
    }
    const int64_t low = ceil_div(count, 4), high = ceil_div(count, 8), half = ceil_div(count, 2);
    const uint8_t *upper = from + low;
    level_digit<4, 1, 1>(from, low, digits);
    level_digit<4, 4, 1>(from, low, digits + low);
    level_digit<4, 16, 1>(from, low, digits + 2 * low);
    level_digit<4, 64, 1>(from, low, digits + 3 * low);
    level_digit<2, 1, 4>(upper, high, digits);
    level_digit<2, 2, 4>(upper, high, digits + high);
    level_digit<2, 4, 4>(upper, high, digits + 2 * high);
    level_digit<2, 8, 4>(upper, high, digits + 3 * high);
    level_digit<2, 16, 4>(upper, high, digits + 4 * high);
    level_digit<2, 32, 4>(upper, high, digits + 5 * high);
    level_digit<2, 64, 4>(upper, high, digits + 6 * high);
    level_digit<2, 128, 4>(upper, high, digits + 7 * high);
    for (int64_t j = 0; j < half; ++j) to[j] = static_cast<uint8_t>((digits[j] & 7) | (digits[half + j] & 7) << 4);
}

}  // namespace
}  // namespace hypersign
