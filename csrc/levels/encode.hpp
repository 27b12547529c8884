// The levels of rows whose cosine with them is largest, among those of several scales. In an anonymous namespace: each
// instruction set compiles the loops with its own vectors.
#pragma once
#include <algorithm>
#include <cmath>

#include "levels/levels.hpp"

namespace hypersign {
namespace {

constexpr int64_t kSumBlock = 256;  // as many products of a level and a component fit into 32 bits

// x = rint(row/max|row| 32767), and the largest |row|.
template <class T>
void round_row(const T *row, int64_t count, int16_t *x) {
    double largest = 0;
    for (int64_t j = 0; j < count; ++j) largest = std::max(largest, std::fabs(static_cast<double>(row[j])));
    if (largest == 0) largest = 1;
    constexpr double kMagic = 6755399441055744;  // 1.5 2^52: adding it rounds to integers, halves to even
    for (int64_t j = 0; j < count; ++j)
        x[j] = static_cast<int16_t>(static_cast<int32_t>(static_cast<double>(row[j]) / largest * 32767 + kMagic - kMagic));
}

// The number of thresholds below each x, and the levels of those numbers.
template <int L>
struct Thresholds {
    int16_t below[L - 1];  // x > below: x is at or above the threshold
    int16_t first, step[L - 1];

    Thresholds(const LevelEncoding &encoding, const double *factors, double rms) : first(encoding.levels[0]) {
        for (int i = 0; i < L - 1; ++i) {
            const double least = std::ceil(factors[i] * rms) - 1;
            below[i] = static_cast<int16_t>(std::min(32767.0, std::max(-32768.0, least)));
            step[i] = static_cast<int16_t>(encoding.levels[i + 1] - encoding.levels[i]);
        }
    }

    double cosine(const int16_t *x, int64_t count) const {
        int64_t product = 0, square = 0;
        for (int64_t start = 0; start < count; start += kSumBlock) {
            int32_t products = 0, squares = 0;
            const int64_t end = std::min(count, start + kSumBlock);
            for (int64_t j = start; j < end; ++j) {
                int16_t level = first;
                for (int i = 0; i < L - 1; ++i)
                    level = static_cast<int16_t>(level + (x[j] > below[i] ? step[i] : int16_t{0}));
                products += level * x[j];
                squares += level * level;
            }
            product += products;
            square += squares;
        }
        return static_cast<double>(product) / std::sqrt(static_cast<double>(std::max<int64_t>(square, 1)));
    }

    void indices(const int16_t *x, int64_t count, uint8_t *to) const {
        for (int64_t j = 0; j < count; ++j) {
            int16_t index = 0;
            for (int i = 0; i < L - 1; ++i) index = static_cast<int16_t>(index + (x[j] > below[i]));
            to[j] = static_cast<uint8_t>(index);
        }
    }
};

template <int L>
void encode_row(const LevelEncoding &encoding, const int16_t *x, uint8_t *to) {
    double squares = 0;
    for (int64_t start = 0; start < encoding.count; start += kSumBlock) {
        int64_t sum = 0;
        for (int64_t j = start; j < std::min(encoding.count, start + kSumBlock); ++j) sum += x[j] * x[j];
        squares += static_cast<double>(sum);
    }
    const double rms = std::sqrt(squares / static_cast<double>(encoding.count));
    double best = -1;
    int64_t chosen = 0;
    for (int64_t scale = 0; scale < encoding.scales; ++scale) {
        const double cosine =
            Thresholds<L>(encoding, encoding.factors + scale * (L - 1), rms).cosine(x, encoding.count);
        if (cosine > best) {
            best = cosine;
            chosen = scale;
        }
    }
    Thresholds<L>(encoding, encoding.factors + chosen * (L - 1), rms).indices(x, encoding.count, to);
}

template <class T>
void encode_rows(const LevelEncoding &encoding, const T *rows, int64_t number, int16_t *x, uint8_t *to) {
    for (int64_t row = 0; row < number; ++row, rows += encoding.count, to += encoding.count) {
        round_row(rows, encoding.count, x);
        switch (encoding.level_count) {
            case 2: encode_row<2>(encoding, x, to); break;
            case 3: encode_row<3>(encoding, x, to); break;
            case 4: encode_row<4>(encoding, x, to); break;
            case 8: encode_row<8>(encoding, x, to); break;
            case 16: encode_row<16>(encoding, x, to); break;
            default: encode_row<64>(encoding, x, to);
        }
    }
}

}  // namespace
}  // namespace hypersign
