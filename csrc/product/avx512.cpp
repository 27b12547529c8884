// The product with AVX-512 VPOPCNTDQ.
//
// A register holds one 32-bit word of 16 filters; a word of the input is broadcast against it. Per 512 bits that is
// three instructions: exclusive or, population count, addition. Everything else is shared: over a block of 8
// registers of filters and 2 pixels (16 counts in registers, 1 input word each for 2 pixels), a step of 32 channels
// takes 8 loads and 2 broadcasts for 48 of those instructions, and no step needs anything of another but its count.
//
// The bottleneck is the vector ports. Zen 5 starts four 512-bit operations a cycle, so 3/4 cycle for 512 bits; Intel
// (Ice Lake to Granite Rapids) starts two, on ports 0 and 5, population counts on port 5 alone: 3/2 cycles. Loads go
// elsewhere (two a cycle). Along the fan-in instead, each register would end in a sum across its lanes, and inputs
// would be loaded once a filter. Adding words up bitwise before counting (carry-save) costs two ternary logic
// operations a word in place of a count and an addition: nothing is gained while all share ports.
//
// Ternary: with n = nonzero(x) & nonzero(w), a sum is popcount(n) - 2 popcount(n & (sign(x) ^ sign(w))): two
// logical operations, two counts, two additions, half of binary's speed. Where only the filters are ternary,
// popcount(n) is a constant of the filter, where only the input is, of the pixel: three instructions again.
//
// Instructions: Intel Intrinsics Guide; ports: uops.info, tables of VPXORD, VPOPCNTD and VPADDD (ZMM).

#include "avx512.hpp"
#include "product/sliced/sliced.hpp"

// A vector register in inline assembly; an emulator defines its own.
#if !defined(HYPERSIGN_REGISTER)
#define HYPERSIGN_REGISTER "v"
#endif

namespace hypersign {
namespace {

constexpr int kLanes = 16;

// A load of its own: as a memory operand it would be repeated for each pixel.
inline __m512i loaded(const __m512i *from) {
    __m512i value = _mm512_load_si512(from);
    __asm__("" : "+" HYPERSIGN_REGISTER(value));
    return value;
}

// Pixels [first, first + P) with a block of G registers of filters.
template <bool TernaryX, bool TernaryW, int G, int P>
inline __attribute__((always_inline)) void block(const ProductTile &tile, int first) {
    constexpr bool kTwoCounts = TernaryX && TernaryW;
    constexpr int kPlanes = 1 + TernaryX;
    __m512i differ[P][G], meet[P][kTwoCounts ? G : 1];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
        for (int g = 0; g < G; ++g) differ[p][g] = _mm512_setzero_si512();
#pragma GCC unroll 16
        for (int g = 0; g < (kTwoCounts ? G : 1); ++g) meet[p][g] = _mm512_setzero_si512();
    }
    auto w = static_cast<const __m512i *>(tile.weights);
    const uint32_t *const *taps = tile.x + first;
    for (int64_t tap = 0; tap < tile.taps; ++tap, taps += kPlanes * kPixels) {
        const uint32_t *sign[P], *nonzero[P];
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
            sign[p] = taps[p] + tile.first_word;
            if constexpr (TernaryX) nonzero[p] = taps[kPixels + p] + tile.first_word;
        }
        for (int64_t k = 0; k < tile.words; ++k, w += (1 + TernaryW) * G) {
            __m512i x[P], x_nonzero[P];
#pragma GCC unroll 16
            for (int p = 0; p < P; ++p) {
                x[p] = _mm512_set1_epi32(static_cast<int>(sign[p][k]));
                if constexpr (TernaryX) x_nonzero[p] = _mm512_set1_epi32(static_cast<int>(nonzero[p][k]));
                if constexpr (TernaryX && !TernaryW)
                    meet[p][0] = _mm512_add_epi32(meet[p][0], _mm512_popcnt_epi32(x_nonzero[p]));
            }
#pragma GCC unroll 16
            for (int g = 0; g < G; ++g) {
                // One pixel meets each weight once, as fast as they come from the L2 cache or from beyond.
                if constexpr (P == 1) _mm_prefetch(reinterpret_cast<const char *>(w + g + 96), _MM_HINT_T0);
                const __m512i w_sign = loaded(w + g);
                __m512i w_nonzero;
                if constexpr (TernaryW) w_nonzero = loaded(w + G + g);
#pragma GCC unroll 16
                for (int p = 0; p < P; ++p) {
                    __m512i d;
                    constexpr int kXorThenAnd = 0x28;  // (a ^ b) & c
                    if constexpr (kTwoCounts) {
                        const __m512i n = _mm512_and_si512(w_nonzero, x_nonzero[p]);
                        meet[p][g] = _mm512_add_epi32(meet[p][g], _mm512_popcnt_epi32(n));
                        d = _mm512_ternarylogic_epi32(x[p], w_sign, n, kXorThenAnd);
                    } else if constexpr (TernaryW) {
                        d = _mm512_ternarylogic_epi32(x[p], w_sign, w_nonzero, kXorThenAnd);
                    } else if constexpr (TernaryX) {
                        d = _mm512_ternarylogic_epi32(x[p], w_sign, x_nonzero[p], kXorThenAnd);
                    } else {
                        d = _mm512_xor_si512(x[p], w_sign);
                    }
                    differ[p][g] = _mm512_add_epi32(differ[p][g], _mm512_popcnt_epi32(d));
                }
            }
        }
    }
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
        const int32_t *thresholds = tile.thresholds[first + p] + tile.first_filter;
#pragma GCC unroll 16
        for (int g = 0; g < G; ++g) {
            __m512i v = differ[p][g];
            if constexpr (TernaryX) v = _mm512_sub_epi32(_mm512_slli_epi32(v, 1), meet[p][kTwoCounts ? g : 0]);
            const __m512i threshold = _mm512_loadu_si512(thresholds + g * kLanes);
            if (tile.sums) {
                const __m512i sum = _mm512_sub_epi32(threshold, TernaryX ? v : _mm512_slli_epi32(v, 1));
                const int left = tile.filters - g * kLanes;
                const __mmask16 mask = left >= kLanes ? 0xffff : static_cast<__mmask16>((1 << left) - 1);
                _mm512_mask_storeu_epi32(tile.sums + (first + p) * tile.sums_stride + g * kLanes, mask, sum);
                continue;
            }
            uint16_t *out = tile.levels + (first + p) * tile.levels_stride + g;
            const uint32_t minus = _mm512_cmpgt_epi32_mask(v, threshold), flip = tile.flip[g];
            if (tile.levels_plane) {
                const __m512i high = _mm512_loadu_si512(thresholds + tile.high_stride + g * kLanes);
                const uint32_t nonzero = minus | _mm512_cmple_epi32_mask(v, high);
                out[0] = static_cast<uint16_t>((minus ^ flip) & nonzero);
                out[tile.levels_plane] = static_cast<uint16_t>(nonzero);
            } else {
                out[0] = static_cast<uint16_t>(minus ^ flip);
            }
        }
    }
}

// All pixels of the tile: P at a time, then the rest by halves.
template <bool TernaryX, bool TernaryW, int G, int P>
void pixels(const ProductTile &tile, int first = 0) {
    for (; first + P <= tile.pixels; first += P) block<TernaryX, TernaryW, G, P>(tile, first);
    if constexpr (P > 1)
        if (first < tile.pixels) pixels<TernaryX, TernaryW, G, (P > 4 ? 4 : P / 2)>(tile, first);
}

template <bool TernaryX, bool TernaryW>
void blocks(const ProductTile &tile) {
    switch (tile.registers) {
    case 1:
        return pixels<TernaryX, TernaryW, 1, 8>(tile);
    case 2:
        return pixels<TernaryX, TernaryW, 2, (TernaryX ? 4 : 8)>(tile);
    default:
        // As many pixels as 32 registers hold, with an input word or two for each.
        return pixels<TernaryX, TernaryW, 4, (TernaryX && TernaryW ? 2 : TernaryX || TernaryW ? 4 : 6)>(tile);
    }
}

void run(const ProductTile &tile) {
    if (tile.ternary_x)
        tile.ternary_w ? blocks<true, true>(tile) : blocks<true, false>(tile);
    else
        tile.ternary_w ? blocks<false, true>(tile) : blocks<false, false>(tile);
}

int64_t peak(int64_t rounds) {
    constexpr int kCounts = 16;
    __m512i x = _mm512_set1_epi32(static_cast<int>(rounds)), v[kCounts], w[8];
    for (int i = 0; i < 8; ++i) w[i] = _mm512_set1_epi32(i);
    for (int i = 0; i < kCounts; ++i) v[i] = x;
    for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
        for (int i = 0; i < kCounts; ++i) {
            if (i % 8 == 0) __asm__ volatile("" : "+" HYPERSIGN_REGISTER(x));  // as if x were new each time
            v[i] = _mm512_add_epi32(v[i], _mm512_popcnt_epi32(_mm512_xor_si512(x, w[i % 8])));
        }
    }
    for (int i = 0; i < kCounts; ++i) __asm__ volatile("" : : HYPERSIGN_REGISTER(v[i]));
    return rounds * kCounts * 512;
}

}  // namespace

const ProductKernels product_avx512{kLanes,  4,       4,       64,      64, pack_weights_by_word, run, peak,
                                    nullptr, nullptr, nullptr, &sliced_avx512};

}  // namespace hypersign
