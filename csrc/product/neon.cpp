// The product with NEON, which counts bits by bytes (CNT).
//
// Four registers hold one 32-bit word of 16 filters; a word of the input is broadcast against them. Per 128 bits that
// is three instructions: exclusive or, count, addition of bytes; the bytes are widened (UADALP) before they can
// overflow, after 31 words. A block is 16 filters by 4 pixels: 16 counts in registers, 4 registers of filters and 4
// input words, of 32 registers. The bottleneck is the vector pipes, four of 128 bits on the large cores (Neoverse
// V1, Apple's), two on smaller ones. Where both or the input is ternary, agreements are counted too and subtracted:
// twice as many instructions and more.
//
// Instructions: Arm's intrinsics reference; pipes: Arm's software optimization guides.
#include <arm_neon.h>

#include <algorithm>

#include "product/epilogue.hpp"
#include "product/product.hpp"

namespace hypersign {
namespace {

constexpr int kLanes = 16, kRegisters = 4;
constexpr int64_t kByteWords = 15;  // a byte counts up to 8 more, or less, with each word, and may have a sign

// Adds the bytes to the counts, and makes them 0.
inline void widen(int8x16_t (&bytes)[kRegisters], int32x4_t (&counts)[kRegisters]) {
    for (int g = 0; g < kRegisters; ++g) {
        counts[g] = vpadalq_s16(counts[g], vpaddlq_s8(bytes[g]));
        bytes[g] = vdupq_n_s8(0);
    }
}

// Pixels [first, first + P) with a block of 16 filters.
template <bool TernaryX, bool TernaryW, int P>
void block(const ProductTile &tile, int first) {
    int8x16_t bytes[P][kRegisters];
    int32x4_t counts[P][kRegisters];
    for (int p = 0; p < P; ++p)
        for (int g = 0; g < kRegisters; ++g) bytes[p][g] = vdupq_n_s8(0), counts[p][g] = vdupq_n_s32(0);
    auto w = static_cast<const uint32_t *>(tile.weights);
    const uint32_t *const *taps = tile.x + first;
    int64_t left = kByteWords;
    for (int64_t tap = 0; tap < tile.taps; ++tap, taps += (1 + TernaryX) * kPixels) {
        const uint32_t *sign[P], *nonzero[P];
        for (int p = 0; p < P; ++p) {
            sign[p] = taps[p] + tile.first_word;
            nonzero[p] = TernaryX ? taps[kPixels + p] + tile.first_word : nullptr;
        }
        for (int64_t k = 0; k < tile.words;) {
            const int64_t last = std::min(tile.words, k + left);
            left -= last - k;
            for (; k < last; ++k, w += (1 + TernaryW) * kLanes)
                for (int g = 0; g < kRegisters; ++g) {
                    const uint32x4_t w_sign = vld1q_u32(w + 4 * g);
                    const uint32x4_t w_nonzero = TernaryW ? vld1q_u32(w + kLanes + 4 * g) : vdupq_n_u32(~0u);
                    for (int p = 0; p < P; ++p) {
                        uint32x4_t differ = veorq_u32(vdupq_n_u32(sign[p][k]), w_sign);
                        if (TernaryX || TernaryW) {
                            uint32x4_t meet = w_nonzero;
                            if (TernaryX) meet = vandq_u32(meet, vdupq_n_u32(nonzero[p][k]));
                            if (TernaryX) {
                                const uint8x16_t agree = vreinterpretq_u8_u32(vbicq_u32(meet, differ));
                                bytes[p][g] = vsubq_s8(bytes[p][g], vreinterpretq_s8_u8(vcntq_u8(agree)));
                            }
                            differ = vandq_u32(differ, meet);
                        }
                        const uint8x16_t count = vcntq_u8(vreinterpretq_u8_u32(differ));
                        bytes[p][g] = vaddq_s8(bytes[p][g], vreinterpretq_s8_u8(count));
                    }
                }
            if (left == 0) {
                for (int p = 0; p < P; ++p) widen(bytes[p], counts[p]);
                left = kByteWords;
            }
        }
    }
    for (int p = 0; p < P; ++p) {
        widen(bytes[p], counts[p]);
        int32_t v[kLanes];
        for (int g = 0; g < kRegisters; ++g) vst1q_s32(v + 4 * g, counts[p][g]);
        epilogue(tile, first + p, v, kLanes);
    }
}

template <bool TernaryX, bool TernaryW, int P>
void pixels(const ProductTile &tile, int first = 0) {
    for (; first + P <= tile.pixels; first += P) block<TernaryX, TernaryW, P>(tile, first);
    if constexpr (P > 1)
        if (first < tile.pixels) pixels<TernaryX, TernaryW, P / 2>(tile, first);
}

void run(const ProductTile &tile) {
    if (tile.ternary_x)
        tile.ternary_w ? pixels<true, true, 4>(tile) : pixels<true, false, 4>(tile);
    else
        tile.ternary_w ? pixels<false, true, 4>(tile) : pixels<false, false, 4>(tile);
}

int64_t peak(int64_t rounds) {
    constexpr int kCounts = 16;
    uint8x16_t x = vdupq_n_u8(static_cast<uint8_t>(rounds)), w[4], v[kCounts];
    for (int i = 0; i < 4; ++i) w[i] = vdupq_n_u8(static_cast<uint8_t>(i));
    for (auto &count : v) count = x;
    for (int64_t round = 0; round < rounds; ++round)
        for (int i = 0; i < kCounts; ++i) {
            if (i % 4 == 0) __asm__ volatile("" : "+w"(x));  // as if it came new
            v[i] = vaddq_u8(v[i], vcntq_u8(veorq_u8(x, w[i % 4])));
        }
    for (auto &count : v) __asm__ volatile("" : : "w"(count));
    return rounds * kCounts * 128;
}

}  // namespace

const ProductKernels product_neon{kLanes, 1, 1, 64, 64, pack_weights_by_word, run, peak};

}  // namespace hypersign
