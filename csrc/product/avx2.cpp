// The product with AVX2, which has no population count: it looks counts up.
//
// A register holds one byte of 32 filters: two numbers of 4 bits, which pick bytes from tables of 16. The tables are
// those of the input: for the 4 input bits a, entry b counts where a and b differ. So a shuffle and an addition are
// all that 4 levels of 32 filters take, four instructions for 256 bits; 3 instructions that part a byte of the
// filters in two serve all pixels. (Exclusive or, then counts by a table that never changes, takes 8.) The input
// costs two loads: each of its 256 bytes has its two tables in memory, 8 KiB, in the L1 cache.
//
// The bottleneck is the vector ports: 38 instructions for 64 filters, 4 pixels and 8 levels, on three ports (Intel;
// shuffles on two of them) or four (Zen). Counts are bytes; before they can overflow they are added to counts of 16
// bits, even bytes and odd ones apart, and those to counts of 32 bits before they can.
//
// Ternary filters are two bits a level, 4 levels a byte, at half the speed; ternary inputs have tables of their own,
// of disagreements minus agreements (plus a bias, since bytes have no sign), and take no more than binary ones.
//
// Instructions: Intel Intrinsics Guide; ports: uops.info, tables of VPSHUFB, VPADDB and VPAND (YMM).
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "product/product.hpp"

namespace hypersign {
namespace {

constexpr int kLanes = 32;

// Two tables of 16 bytes, for the lower and the upper 4 bits of the filters' byte.
struct Pair {
    alignas(32) uint8_t low[16], high[16];
};

struct Tables {
    Pair binary[256];            // [input byte][filters' 4 levels]: disagreements
    uint8_t ternary_x[256][16];  // [input non-zeros, signs of 4 levels][filters' 4 levels]: v + 4
    Pair ternary_w[16];          // [input's 4 levels][filters' non-zeros, signs of 2 levels]: v
    Pair both[256];              // [input non-zeros, signs of 4 levels][filters' non-zeros, signs of 2 levels]: v + 2

    Tables() {
        for (int x = 0; x < 256; ++x)
            for (int w = 0; w < 16; ++w) {
                const int sign = x & 15, nonzero = x >> 4;
                binary[x].low[w] = static_cast<uint8_t>(__builtin_popcount((x & 15) ^ w));
                binary[x].high[w] = static_cast<uint8_t>(__builtin_popcount((x >> 4) ^ w));
                ternary_x[x][w] = excess(sign, nonzero, w, 15, 4);
                both[x].low[w] = excess(sign & 3, nonzero & 3, w & 3, w >> 2, 2);
                both[x].high[w] = excess(sign >> 2, nonzero >> 2, w & 3, w >> 2, 2);
                ternary_w[x & 15].low[w] = static_cast<uint8_t>(__builtin_popcount(((x ^ w) & 3) & (w >> 2)));
                ternary_w[x & 15].high[w] = static_cast<uint8_t>(__builtin_popcount(((x >> 2 ^ w) & 3) & (w >> 2)));
            }
    }

    static uint8_t excess(int sign_x, int nonzero_x, int sign_w, int nonzero_w, int bias) {
        const int meet = nonzero_x & nonzero_w;
        return static_cast<uint8_t>(bias + 2 * __builtin_popcount((sign_x ^ sign_w) & meet) - __builtin_popcount(meet));
    }
};

const Tables &tables() {
    static const Tables made;
    return made;
}

void arrange(const uint32_t *const *sign, const uint32_t *const *nonzero, int64_t words, int filters, void *block) {
    auto out = static_cast<uint8_t *>(block);
    for (int64_t k = 0; k < words; ++k) {
        if (!nonzero) {
            for (int byte = 0; byte < 4; ++byte)
                for (int i = 0; i < filters; ++i) *out++ = static_cast<uint8_t>(sign[i][k] >> (8 * byte));
            continue;
        }
        for (int four = 0; four < 8; ++four)
            for (int i = 0; i < filters; ++i) {
                const uint32_t s = sign[i][k] >> (4 * four) & 15, n = nonzero[i][k] >> (4 * four) & 15;
                *out++ = static_cast<uint8_t>((s & 3) | (n & 3) << 2 | (s >> 2) << 4 | (n >> 2) << 6);
            }
    }
}

inline __m256i both_halves(const uint8_t *table) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i *>(table)));
}

template <bool TernaryX, bool TernaryW>
struct Step {
    static constexpr int kSteps = TernaryW ? 8 : 4;               // of a word
    static constexpr int kMost = (TernaryX ? 2 : 1) * (TernaryW ? 4 : 8);  // that a step adds to a byte
    static constexpr int kBias = TernaryX ? kMost / 2 : 0;        // of a step
    static constexpr int kWords = 255 / (kMost * kSteps);         // before bytes overflow

    // A byte of the input picks the tables: 8 binary levels, or 4 ternary ones, signs lowest. Binary levels lie so in
    // memory; of ternary ones, the two planes' bits are spread over bytes first, a word at once.

    static inline uint64_t spread(uint32_t sign, uint32_t nonzero) {
        return _pdep_u64(sign, 0x0f0f0f0f0f0f0f0f) | _pdep_u64(nonzero, 0xf0f0f0f0f0f0f0f0);
    }

    // The two tables of step `i` of a word.
    static inline void find(const Tables &all, uint32_t word, const uint8_t *picks, int i, __m256i &low,
                            __m256i &high) {
        if constexpr (TernaryX && !TernaryW) {
            low = both_halves(all.ternary_x[picks[2 * i]]);
            high = both_halves(all.ternary_x[picks[2 * i + 1]]);
        } else if constexpr (!TernaryW) {
            const Pair &pair = all.binary[picks[i]];
            low = both_halves(pair.low), high = both_halves(pair.high);
        } else {
            const Pair &pair = TernaryX ? all.both[picks[i]] : all.ternary_w[word >> (4 * i) & 15];
            low = both_halves(pair.low), high = both_halves(pair.high);
        }
    }
};

// Counts of 32 filters in 16 bits: those of even bytes and of odd ones.
struct Halves {
    __m256i even, odd;
};

constexpr int kFolds = 257;  // of bytes, before 16 bits overflow

// Adds the bytes to the halves, and makes them 0.
template <int G>
inline void fold(__m256i (&bytes)[G], Halves (&halves)[G]) {
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) {
        halves[g].even = _mm256_add_epi16(halves[g].even, _mm256_and_si256(bytes[g], _mm256_set1_epi16(255)));
        halves[g].odd = _mm256_add_epi16(halves[g].odd, _mm256_srli_epi16(bytes[g], 8));
        bytes[g] = _mm256_setzero_si256();
    }
}

// Adds the halves to the counts, and makes them 0.
template <int G>
void widen(Halves (&halves)[G], int32_t *counts) {
    for (Halves &half : halves) {
        // Filters 0-7 and 16-23, 8-15 and 24-31.
        const __m256i parts[2] = {_mm256_unpacklo_epi16(half.even, half.odd), _mm256_unpackhi_epi16(half.even, half.odd)};
        const __m128i eights[4] = {_mm256_castsi256_si128(parts[0]), _mm256_castsi256_si128(parts[1]),
                                   _mm256_extracti128_si256(parts[0], 1), _mm256_extracti128_si256(parts[1], 1)};
        for (const __m128i &eight : eights) {
            auto at = reinterpret_cast<__m256i *>(counts);
            _mm256_store_si256(at, _mm256_add_epi32(_mm256_load_si256(at), _mm256_cvtepu16_epi32(eight)));
            counts += 8;
        }
        half.even = half.odd = _mm256_setzero_si256();
    }
}

void write(const ProductTile &tile, int p, const int32_t *counts, int lanes) {
    const int32_t *limits = tile.limits[p] + tile.first_filter;
    if (tile.sums) {
        int32_t *out = tile.sums + p * tile.sums_stride;
        const int factor = tile.ternary_x ? 1 : 2;
        for (int i = 0; i < tile.filters; ++i) out[i] = limits[i] - factor * counts[i];
        return;
    }
    for (int i = 0; i < lanes; i += 16) {
        auto greater = [&](const int32_t *than) {
            uint32_t mask = 0;
            for (int part = 0; part < 2; ++part) {
                const __m256i v = _mm256_load_si256(reinterpret_cast<const __m256i *>(counts + i + 8 * part));
                const __m256i limit = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(than + i + 8 * part));
                mask |= static_cast<uint32_t>(
                            _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(v, limit))))
                        << (8 * part);
            }
            return mask;
        };
        uint16_t *out = tile.levels + p * tile.levels_stride + i / 16;
        const uint32_t minus = greater(limits), flip = tile.flip[i / 16];
        if (tile.levels_plane) {
            const uint32_t nonzero = minus | (greater(limits + tile.high_stride) ^ 0xffff);
            out[0] = static_cast<uint16_t>((minus ^ flip) & nonzero);
            out[tile.levels_plane] = static_cast<uint16_t>(nonzero);
        } else {
            out[0] = static_cast<uint16_t>(minus ^ flip);
        }
    }
}

// Pixels [first, first + P) with a block of G registers of filters.
template <bool TernaryX, bool TernaryW, int G, int P>
void block(const ProductTile &tile, int first) {
    using S = Step<TernaryX, TernaryW>;
    const Tables &all = tables();
    const __m256i mask = _mm256_set1_epi8(15);
    alignas(32) int32_t counts[P][G * kLanes];
    const auto bias = static_cast<int32_t>(S::kBias * S::kSteps * tile.taps * tile.words);
    for (auto &row : counts) std::fill_n(row, G * kLanes, -bias);
    __m256i bytes[P][G];
    Halves halves[P][G];
    for (int p = 0; p < P; ++p)
        for (int g = 0; g < G; ++g) bytes[p][g] = halves[p][g].even = halves[p][g].odd = _mm256_setzero_si256();
    auto w = static_cast<const __m256i *>(tile.weights);
    const uint32_t *const *taps = tile.x + first;
    int64_t room = S::kWords, folds = kFolds - 1;
    for (int64_t tap = 0; tap < tile.taps; ++tap, taps += (1 + TernaryX) * kPixels) {
        const uint32_t *sign[P], *nonzero[P];
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) {
            sign[p] = taps[p] + tile.first_word;
            nonzero[p] = TernaryX ? taps[kPixels + p] + tile.first_word : nullptr;
        }
        for (int64_t k = 0; k < tile.words;) {
            const int64_t last = std::min(tile.words, k + room);
            room -= last - k;
            for (; k < last; ++k) {
                const uint8_t *picks[P];
                uint64_t spread[P];
#pragma GCC unroll 8
                for (int p = 0; p < P; ++p) {
                    picks[p] = reinterpret_cast<const uint8_t *>(sign[p] + k);
                    if constexpr (TernaryX) {
                        spread[p] = S::spread(sign[p][k], nonzero[p][k]);
                        picks[p] = reinterpret_cast<const uint8_t *>(&spread[p]);
                    }
                }
                for (int i = 0; i < S::kSteps; ++i, w += G) {
                    __m256i low[G], high[G];
#pragma GCC unroll 2
                    for (int g = 0; g < G; ++g) {
                        const __m256i byte = _mm256_load_si256(w + g);
                        low[g] = _mm256_and_si256(byte, mask);
                        high[g] = _mm256_and_si256(_mm256_srli_epi16(byte, 4), mask);
                    }
#pragma GCC unroll 8
                    for (int p = 0; p < P; ++p) {
                        __m256i low_table, high_table;
                        S::find(all, sign[p][k], picks[p], i, low_table, high_table);
#pragma GCC unroll 2
                        for (int g = 0; g < G; ++g) {
                            bytes[p][g] = _mm256_add_epi8(bytes[p][g], _mm256_shuffle_epi8(low_table, low[g]));
                            bytes[p][g] = _mm256_add_epi8(bytes[p][g], _mm256_shuffle_epi8(high_table, high[g]));
                        }
                    }
                }
            }
            if (room == 0) {
#pragma GCC unroll 8
                for (int p = 0; p < P; ++p) fold<G>(bytes[p], halves[p]);
                room = S::kWords;
                if (--folds == 0) {
                    for (int p = 0; p < P; ++p) widen<G>(halves[p], counts[p]);
                    folds = kFolds - 1;
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
        fold<G>(bytes[p], halves[p]);
        widen<G>(halves[p], counts[p]);
        write(tile, first + p, counts[p], G * kLanes);
    }
}

template <bool TernaryX, bool TernaryW, int G, int P>
void pixels(const ProductTile &tile, int first = 0) {
    for (; first + P <= tile.pixels; first += P) block<TernaryX, TernaryW, G, P>(tile, first);
    if constexpr (P > 1)
        if (first < tile.pixels) pixels<TernaryX, TernaryW, G, P / 2>(tile, first);
}

template <bool TernaryX, bool TernaryW>
void blocks(const ProductTile &tile) {
    tile.registers == 1 ? pixels<TernaryX, TernaryW, 1, 4>(tile) : pixels<TernaryX, TernaryW, 2, 4>(tile);
}

void run(const ProductTile &tile) {
    if (tile.ternary_x)
        tile.ternary_w ? blocks<true, true>(tile) : blocks<true, false>(tile);
    else
        tile.ternary_w ? blocks<false, true>(tile) : blocks<false, false>(tile);
}

// Two shuffles and two additions for 256 bits.
int64_t limit(int64_t rounds) {
    constexpr int kCounts = 8;
    __m256i table = _mm256_set1_epi8(static_cast<char>(rounds)), v[kCounts], w[kCounts / 2];
    for (int i = 0; i < kCounts; ++i) v[i] = table;
    for (int i = 0; i < kCounts / 2; ++i) w[i] = _mm256_set1_epi8(static_cast<char>(i));
    for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
        for (int i = 0; i < 2 * kCounts; ++i) {
            if (i % (kCounts / 2) == 0) __asm__ volatile("" : "+x"(table));  // as if it came new
            v[i / 2] = _mm256_add_epi8(v[i / 2], _mm256_shuffle_epi8(table, w[i % (kCounts / 2)]));
        }
    }
    for (int i = 0; i < kCounts; ++i) __asm__ volatile("" : : "x"(v[i]));
    return rounds * kCounts * 256;
}

}  // namespace

const ProductKernels product_avx2{kLanes, 2, 2, arrange, run, limit};

}  // namespace hypersign
