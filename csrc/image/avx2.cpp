// vpmaddubsw multiplies two unsigned bytes with two signed ones in each of 16 lanes and adds them up, in 16 bits.
// Those hold the sums of as many taps as the largest weight allows: of 32 fours for weights of 2, and of one at
// least, since weights are at most 64 and 2 * 255 * 64 < 2^15. So a four of taps takes two instructions for 8
// filters. Zen multiplies on two ports: 4 cycles for a four of 4 pixels and 16 filters, which share eight registers
// of sums.
//
// Where all of a filter's taps fit (a first layer's do), sums become levels in 16 bits too: vphaddw adds the two lanes
// of a filter, and limits are saturated, so that none is crossed that was not. Otherwise vpmaddwd brings pairs of 16
// bits to 32.
//
// Instructions: Intel Intrinsics Guide; ports: uops.info, tables of VPMADDUBSW, VPHADDW and VPMADDWD (YMM).
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "image/image.hpp"

namespace hypersign {
namespace {

#define HYPERSIGN_INLINE inline __attribute__((always_inline))

constexpr int64_t TAPS = 4, LANES = 16;

// Sums of 16 filters of some pixels in 16 bits: two lanes of each filter, 8 filters to a register. Members have names,
// and registers: the compiler would keep an array in memory.
template <int pixels>
struct Sums {
    __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();
    Sums<pixels - 1> rest;

    // Adds a four of taps.
    HYPERSIGN_INLINE void add(const uint8_t *patch, int64_t depth, const __m256i &weights_low,
                              const __m256i &weights_high) {
        int32_t four;
        std::memcpy(&four, patch, sizeof four);
        const __m256i x_u8x32 = _mm256_set1_epi32(four);
        low = _mm256_add_epi16(low, _mm256_maddubs_epi16(x_u8x32, weights_low));
        high = _mm256_add_epi16(high, _mm256_maddubs_epi16(x_u8x32, weights_high));
        rest.add(patch + depth, depth, weights_low, weights_high);
    }
};

template <>
struct Sums<0> {
    HYPERSIGN_INLINE void add(const uint8_t *, int64_t, const __m256i &, const __m256i &) {}
};

// Of taps [first, last), which fit.
template <int pixels>
HYPERSIGN_INLINE Sums<pixels> add_taps(const ImageRow &row, int64_t pixel, int64_t block, int64_t first, int64_t last) {
    const int64_t depth = row.fours * TAPS;
    const uint8_t *patches = row.patches + pixel * depth;
    auto weights = reinterpret_cast<const __m256i *>(row.weights + block * LANES * depth) + 2 * first / TAPS;
    Sums<pixels> sums;
#pragma GCC unroll 4
    for (int64_t k = first; k < last; k += TAPS, weights += 2)
        sums.add(patches + k, depth, _mm256_loadu_si256(weights), _mm256_loadu_si256(weights + 1));
    return sums;
}

// The sums of all taps, in 32 bits.
struct Whole {
    __m256i low, high;
};

HYPERSIGN_INLINE void widen(const Sums<0> &, Whole *) {}

template <int pixels>
HYPERSIGN_INLINE void widen(const Sums<pixels> &sums, Whole *to) {
    const __m256i ones = _mm256_set1_epi16(1);
    to->low = _mm256_add_epi32(to->low, _mm256_madd_epi16(sums.low, ones));
    to->high = _mm256_add_epi32(to->high, _mm256_madd_epi16(sums.high, ones));
    widen(sums.rest, to + 1);
}

// `room`: bytes of taps whose sums fit in 16 bits.
template <int pixels>
void tile(const ImageRow &row, int64_t pixel, int64_t block, int64_t room) {
    const int64_t depth = row.fours * TAPS;
    Whole sums[pixels];
    for (int p = 0; p < pixels; ++p) std::memcpy(&sums[p], row.start[pixel + p] + block * LANES, sizeof sums[p]);
    for (int64_t k = 0; k < depth; k += room)
        widen(add_taps<pixels>(row, pixel, block, k, std::min(k + room, depth)), sums);
    for (int p = 0; p < pixels; ++p) {
        int32_t of[LANES];
        std::memcpy(of, &sums[p], sizeof of);
        image_finish(row, pixel + p, block, of);
    }
}

// Limits of a block's sums without their start, in 16 bits and the order in which vphaddw leaves filters: 0-3, 8-11;
// 4-7, 12-15.
class Limits {
   public:
    __m256i operator()(const ImageRow &row, int64_t pixel, int64_t block) {
        const int32_t *start = row.start[pixel] + block * LANES;
        if (start != start_) {  // neighbours share theirs, but at the edges
            start_ = start;
            auto less = [&](int half) {
                const __m256i low = load(row.low + block * LANES, half), from = load(start, half);
                const __m256i limit = _mm256_sub_epi32(low, from);
                // What overflows is as far away as can be, on the side of `low`.
                const __m256i overflows =
                    _mm256_and_si256(_mm256_xor_si256(low, from), _mm256_xor_si256(low, limit));
                const __m256i far = _mm256_xor_si256(_mm256_srai_epi32(low, 31), _mm256_set1_epi32(INT32_MAX));
                return _mm256_blendv_epi8(limit, far, _mm256_srai_epi32(overflows, 31));
            };
            limits_ = _mm256_packs_epi32(less(0), less(1));
        }
        return limits_;
    }

   private:
    static __m256i load(const int32_t *from, int half) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from) + half);
    }
    const int32_t *start_ = nullptr;
    __m256i limits_ = _mm256_setzero_si256();
};

// Writes levels of whole blocks of 16 filters, whose sums fit in 16 bits to the end.
class Levels {
   public:
    Levels(const ImageRow &row, int64_t block)
        : row_(row), block_(block), words_((row.filters + 63) / 64), piece_(block % 4),
          flip_(static_cast<uint32_t>(row.flip[block / 4] >> piece_ * LANES & 0xffff) * 0x10001u) {}

    HYPERSIGN_INLINE void write(const Sums<4> &sums, int64_t pixel) {
        const uint32_t first = bits(below(sums, pixel), below(sums.rest, pixel + 1));
        const uint32_t second = bits(below(sums.rest.rest, pixel + 2), below(sums.rest.rest.rest, pixel + 3));
        put(pixel, first);
        put(pixel + 1, first >> 16);
        put(pixel + 2, second);
        put(pixel + 3, second >> 16);
    }
    HYPERSIGN_INLINE void write(const Sums<1> &sums, int64_t pixel) {
        const __m256i levels = below(sums, pixel);
        put(pixel, bits(levels, levels));
    }

   private:
    template <int pixels>
    HYPERSIGN_INLINE __m256i below(const Sums<pixels> &sums, int64_t pixel) {
        return _mm256_cmpgt_epi16(limits_(row_, pixel, block_), _mm256_hadd_epi16(sums.low, sums.high));
    }
    // Of two pixels, 16 each.
    HYPERSIGN_INLINE uint32_t bits(__m256i first, __m256i second) const {
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        const __m256i both = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(first, second), order);
        return static_cast<uint32_t>(_mm256_movemask_epi8(both)) ^ flip_;
    }
    HYPERSIGN_INLINE void put(int64_t pixel, uint32_t levels) const {
        uint64_t *to = row_.sign + pixel * words_ + block_ / 4;
        const auto of = static_cast<uint16_t>(levels);
        if (piece_ == 0)
            *to = of;  // its other pieces, if any, are written after
        else
            std::memcpy(reinterpret_cast<uint8_t *>(to) + 2 * piece_, &of, sizeof of);
    }

    const ImageRow &row_;
    const int64_t block_, words_, piece_;
    const uint32_t flip_;
    Limits limits_;
};

void image_row(const ImageRow &row) {
    const int64_t largest = std::max<int64_t>(1, row.largest), taps = row.fours * TAPS;
    const bool narrow = row.low != nullptr && row.high == nullptr && taps * UINT8_MAX * largest < INT16_MAX;
    const int64_t room = TAPS * std::max<int64_t>(1, INT16_MAX / (2 * UINT8_MAX * largest));
    for (int64_t block = 0; block * LANES < row.filters; ++block) {
        int64_t pixel = 0;
        if (narrow && (block + 1) * LANES <= row.filters) {
            Levels levels(row, block);
            for (; pixel + 4 <= row.pixels; pixel += 4)
                levels.write(add_taps<4>(row, pixel, block, 0, taps), pixel);
            for (; pixel < row.pixels; ++pixel) levels.write(add_taps<1>(row, pixel, block, 0, taps), pixel);
        } else {
            for (; pixel + 4 <= row.pixels; pixel += 4) tile<4>(row, pixel, block, room);
            for (; pixel < row.pixels; ++pixel) tile<1>(row, pixel, block, room);
        }
    }
}

}  // namespace

const ImageKernels image_avx2{image_row};

}  // namespace hypersign
