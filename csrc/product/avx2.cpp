// The product with AVX2, which has no population count: it looks counts up.
//
// A register holds 4 levels of 32 filters, a number of 4 bits in each byte, which picks from a table of 16 bytes. The
// tables are those of the input: for its 4 levels a, entry b counts where a and b differ. So a shuffle and an addition
// are all that 4 levels of 32 filters take, four instructions for 256 bits. (Exclusive or, then counts by a table that
// never changes, takes 8.) All else is done once, before: filters are parted into numbers of 4 bits when they are
// arranged, which doubles their size, and where the tables of the input's levels lie is written down for all blocks of
// filters (`spread`), 2 bytes for 8 levels. The tables of all 256 bytes are 8 KiB, in the L1 cache.
//
// 8 levels of 4 pixels and 64 filters take 32 shuffles and additions, 12 loads of tables and filters, and 4 of places:
// 48 instructions. Zen dispatches 6 a cycle and has four vector ports, two of which shuffle: 8 cycles by either count.
// Intel has three, two of which shuffle: 11 cycles. Counts are bytes; before they can overflow they are added to
// counts of 16 bits, even bytes and odd ones apart, and those to counts of 32 bits before they can.
//
// Ternary filters are two bits a level, 2 levels a number, at half the speed; ternary inputs have tables of their own,
// of disagreements minus agreements (plus a bias, since bytes have no sign), and take no more than binary ones.
//
// Instructions: Intel Intrinsics Guide; ports: uops.info, tables of VPSHUFB, VPADDB and VBROADCASTI128 (YMM).
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "product/product.hpp"

namespace hypersign {
namespace {

constexpr int kLanes = 32;

// Tables of 16 bytes each: of a byte of the input, or of 4 of its levels. Two side by side are for the lower and the
// upper 4 bits of the filters' byte.
constexpr int kTable = 16, kPair = 32;

struct Tables {
    alignas(64) uint8_t binary[256 * kPair];  // [input byte][filters' 4 levels]: disagreements
    uint8_t ternary_x[256 * kTable];          // [input non-zeros, signs of 4 levels][filters' 4 levels]: v + 4
    uint8_t ternary_w[16 * kPair];  // [input's 4 levels][filters' non-zeros, signs of 2 levels]: v
    uint8_t both[256 * kPair];      // [input non-zeros, signs of 4 levels][filters' non-zeros, signs of 2 levels]: v + 2

    Tables() {
        for (int x = 0; x < 256; ++x)
            for (int w = 0; w < kTable; ++w) {
                const int sign = x & 15, nonzero = x >> 4, low = x * kPair + w, high = low + kTable;
                binary[low] = static_cast<uint8_t>(__builtin_popcount((x & 15) ^ w));
                binary[high] = static_cast<uint8_t>(__builtin_popcount((x >> 4) ^ w));
                ternary_x[x * kTable + w] = excess(sign, nonzero, w, 15, 4);
                both[low] = excess(sign & 3, nonzero & 3, w & 3, w >> 2, 2);
                both[high] = excess(sign >> 2, nonzero >> 2, w & 3, w >> 2, 2);
                if (x >= 16) continue;
                ternary_w[low] = static_cast<uint8_t>(__builtin_popcount(((x ^ w) & 3) & (w >> 2)));
                ternary_w[high] = static_cast<uint8_t>(__builtin_popcount(((x >> 2 ^ w) & 3) & (w >> 2)));
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
    // For each step the lower halves of all filters' bytes, then the upper ones.
    auto write = [&](auto &&byte) {
        for (int half = 0; half < 8; half += 4)
            for (int i = 0; i < filters; ++i) *out++ = static_cast<uint8_t>(byte(i) >> half & 15);
    };
    for (int64_t k = 0; k < words; ++k) {
        if (!nonzero) {
            for (int step = 0; step < 4; ++step) write([&](int i) { return sign[i][k] >> (8 * step); });
            continue;
        }
        for (int step = 0; step < 8; ++step)
            write([&](int i) {
                const uint32_t s = sign[i][k] >> (4 * step) & 15, n = nonzero[i][k] >> (4 * step) & 15;
                return (s & 3) | (n & 3) << 2 | (s >> 2) << 4 | (n >> 2) << 6;
            });
    }
}

int spread_size(bool ternary_x, bool ternary_w) { return ternary_x || ternary_w ? 4 : 2; }

// Writes where the tables of each step are, in bytes from the first: 16 bits a step, or for a table.
void spread(const uint32_t *sign, const uint32_t *nonzero, int64_t words, bool ternary_w, uint32_t *out) {
    auto at = reinterpret_cast<__m128i *>(out);
    if (!nonzero && !ternary_w) {
        auto bytes = reinterpret_cast<const uint8_t *>(sign);
        auto offsets = reinterpret_cast<uint16_t *>(out);
        for (int64_t i = 0; i < 4 * words; ++i) offsets[i] = static_cast<uint16_t>(bytes[i] * kPair);
        return;
    }
    const __m128i size = _mm_set1_epi16(ternary_w ? kPair : kTable);
    for (int64_t k = 0; k < words; ++k) {
        uint64_t bytes = _pdep_u64(sign[k], 0x0f0f0f0f0f0f0f0f);
        if (nonzero) bytes |= _pdep_u64(nonzero[k], 0xf0f0f0f0f0f0f0f0);
        const __m128i picks = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(static_cast<int64_t>(bytes)));
        _mm_storeu_si128(at + k, _mm_mullo_epi16(picks, size));
    }
}

inline __m256i both_lanes(const uint8_t *table) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i *>(table)));
}

constexpr int kUnrolled = 4;  // steps in a turn of the inner loop: those of a word, or of half of it

template <bool TernaryX, bool TernaryW>
struct Step {
    static constexpr int kSteps = TernaryW ? 8 : 4;                        // of a word
    static constexpr int kMost = (TernaryX ? 2 : 1) * (TernaryW ? 4 : 8);  // that a step adds to a byte
    static constexpr int kBias = TernaryX ? kMost / 2 : 0;                 // of a step
    static constexpr int kRoom = 255 / kMost / kUnrolled * kUnrolled;       // steps before bytes overflow
    static constexpr int kOffsets = TernaryX && !TernaryW ? 2 : 1;         // of a step

    static const uint8_t *base() {
        const Tables &all = tables();
        return !TernaryW ? TernaryX ? all.ternary_x : all.binary : TernaryX ? all.both : all.ternary_w;
    }
};

// Counts of 32 filters in 16 bits, of even bytes and of odd ones. Sums of bytes two by two, as they lie, are
// even + 256 odd, modulo 2^16, and cost an instruction less than the even ones alone.
struct Halves {
    __m256i both, odd;
    __m256i even() const { return _mm256_sub_epi16(both, _mm256_slli_epi16(odd, 8)); }
};

constexpr int64_t kFolds = 257;  // of bytes, before 16 bits overflow

// Adds to the counts what `steps` steps of each of `taps` taps count, at most Step::kRoom steps in all; `x` points to
// pointers to pixels, of which it reads from `offset` on. A function of its own, so that the counts in bytes and all
// that the loop reads are in registers.
template <bool TernaryX, bool TernaryW, int G, int P>
__attribute__((noinline)) void count(const __m256i *w, const uint32_t *const *x, int64_t offset, int64_t taps,
                                     int64_t steps, Halves (&halves)[P][G]) {
    using S = Step<TernaryX, TernaryW>;
    const uint8_t *const base = S::base();
    __m256i bytes[P][G];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 2
        for (int g = 0; g < G; ++g) bytes[p][g] = _mm256_setzero_si256();
    for (; taps > 0; --taps, x += kPixels) {
        const uint16_t *offsets[P];
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) offsets[p] = reinterpret_cast<const uint16_t *>(x[p]) + offset;
        for (int64_t k = 0; k < steps; k += kUnrolled)
#pragma GCC unroll 4
            for (int i = 0; i < kUnrolled; ++i, w += 2 * G) {
                __m256i low[G], high[G];
#pragma GCC unroll 2
                for (int g = 0; g < G; ++g) {
                    low[g] = _mm256_load_si256(w + g);
                    high[g] = _mm256_load_si256(w + G + g);
                    __asm__("" : "+x"(low[g]), "+x"(high[g]));  // loaded once, not by each use
                }
#pragma GCC unroll 8
                for (int p = 0; p < P; ++p) {
                    const uint16_t *offset = offsets[p] + S::kOffsets * (k + i);
                    const uint8_t *table = base + offset[0];
                    const __m256i low_table = both_lanes(table);
                    const __m256i high_table = both_lanes(S::kOffsets == 2 ? base + offset[1] : table + kTable);
#pragma GCC unroll 2
                    for (int g = 0; g < G; ++g) {
                        bytes[p][g] = _mm256_add_epi8(bytes[p][g], _mm256_shuffle_epi8(low_table, low[g]));
                        __asm__("" : "+x"(bytes[p][g]));  // in this order: sums of their own would take registers
                        bytes[p][g] = _mm256_add_epi8(bytes[p][g], _mm256_shuffle_epi8(high_table, high[g]));
                        __asm__("" : "+x"(bytes[p][g]));
                    }
                }
            }
    }
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 2
        for (int g = 0; g < G; ++g) {
            Halves &half = halves[p][g];
            half.both = _mm256_add_epi16(half.both, bytes[p][g]);
            half.odd = _mm256_add_epi16(half.odd, _mm256_srli_epi16(bytes[p][g], 8));
        }
}

// Counts of 16 bits in the filters' order: 0-7 and 16-23; 8-15 and 24-31.
struct Ordered {
    __m256i first, second;
    Ordered(const Halves &half)
        : first(_mm256_unpacklo_epi16(half.even(), half.odd)), second(_mm256_unpackhi_epi16(half.even(), half.odd)) {}
    // Filters 8 part to 8 part + 7.
    __m128i eight(int part) const {
        const __m256i &from = part % 2 ? second : first;
        return part / 2 ? _mm256_extracti128_si256(from, 1) : _mm256_castsi256_si128(from);
    }
};

// Adds the halves to the counts, and makes them 0.
template <int G>
void widen(Halves (&halves)[G], int32_t *counts) {
    for (Halves &half : halves) {
        const Ordered ordered(half);
        for (int part = 0; part < 4; ++part, counts += 8) {
            auto at = reinterpret_cast<__m256i *>(counts);
            const __m256i more = _mm256_cvtepu16_epi32(ordered.eight(part));
            _mm256_store_si256(at, _mm256_add_epi32(_mm256_load_si256(at), more));
        }
        half.both = half.odd = _mm256_setzero_si256();
    }
}

// Limits of a pixel in 16 bits, in the order of `Ordered`, for counts that are less than 2^15 in magnitude.
template <int G>
struct Limits {
    const int32_t *of = nullptr;  // the pixel's own
    __m256i low[G][2] = {}, high[G][2] = {};

    void take(const ProductTile &tile, int p) {
        const int32_t *limits = tile.limits[p] + tile.first_filter;
        if (limits == of) return;  // neighbours share theirs, but at the edges
        of = limits;
        for (int g = 0; g < G; ++g)
            for (int part = 0; part < 2; ++part) {
                low[g][part] = pack(limits + g * kLanes + 8 * part);
                if (tile.levels_plane) high[g][part] = pack(limits + tile.high_stride + g * kLanes + 8 * part);
            }
    }

    static __m256i pack(const int32_t *limits) {
        auto load = [&](int i) {
            auto at = reinterpret_cast<const __m128i *>(limits + i);
            return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(at)), _mm_loadu_si128(at + 4), 1);
        };
        return _mm256_packs_epi32(load(0), load(4));  // saturated: what no count reaches stays out of reach
    }
};

inline void write_levels(const ProductTile &tile, int p, int piece, uint32_t minus, uint32_t not_plus) {
    uint16_t *out = tile.levels + p * tile.levels_stride + piece;
    const uint32_t flip = tile.flip[piece];
    if (tile.levels_plane) {
        const uint32_t nonzero = minus | (not_plus ^ 0xffff);
        out[0] = static_cast<uint16_t>((minus ^ flip) & nonzero);
        out[tile.levels_plane] = static_cast<uint16_t>(nonzero);
    } else {
        out[0] = static_cast<uint16_t>(minus ^ flip);
    }
}

// Sums of pixel p, or levels, whose counts are less than 2^15.
template <int G>
inline void finish(const ProductTile &tile, int p, const Halves (&halves)[G], int bias, Limits<G> &limits) {
    if (!tile.sums) limits.take(tile, p);
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) {
        Ordered counts(halves[g]);
        const __m256i excess = _mm256_set1_epi16(static_cast<int16_t>(bias));
        counts.first = _mm256_sub_epi16(counts.first, excess);
        counts.second = _mm256_sub_epi16(counts.second, excess);
        if (tile.sums) {
            const int32_t *offsets = tile.limits[p] + tile.first_filter + g * kLanes;
            int32_t *out = tile.sums + p * tile.sums_stride + g * kLanes;
#pragma GCC unroll 4
            for (int part = 0; part < 4; ++part) {
                __m256i v = _mm256_cvtepi16_epi32(counts.eight(part));
                if (!tile.ternary_x) v = _mm256_add_epi32(v, v);
                const __m256i offset = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(offsets + 8 * part));
                _mm256_storeu_si256(reinterpret_cast<__m256i *>(out + 8 * part), _mm256_sub_epi32(offset, v));
            }
            continue;
        }
        auto greater = [&](const __m256i (&than)[2]) {
            return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_packs_epi16(
                _mm256_cmpgt_epi16(counts.first, than[0]), _mm256_cmpgt_epi16(counts.second, than[1]))));
        };
        const uint32_t minus = greater(limits.low[g]), not_plus = tile.levels_plane ? greater(limits.high[g]) : 0;
        write_levels(tile, p, 2 * g, minus & 0xffff, not_plus & 0xffff);
        write_levels(tile, p, 2 * g + 1, minus >> 16, not_plus >> 16);
    }
}

// The same from counts of 32 bits.
void finish(const ProductTile &tile, int p, const int32_t *counts, int lanes) {
    const int32_t *limits = tile.limits[p] + tile.first_filter;
    if (tile.sums) {
        int32_t *out = tile.sums + p * tile.sums_stride;
        const int shift = tile.ternary_x ? 0 : 1;
        for (int i = 0; i < tile.filters; ++i) out[i] = limits[i] - counts[i] * (1 << shift);
        return;
    }
    for (int i = 0; i < lanes; i += 16) {
        auto greater = [&](const int32_t *than) {
            uint32_t mask = 0;
            for (int j = 0; j < 16; ++j) mask |= static_cast<uint32_t>(counts[i + j] > than[i + j]) << j;
            return mask;
        };
        write_levels(tile, p, i / 16, greater(limits), tile.levels_plane ? greater(limits + tile.high_stride) : 0);
    }
}

// Pixels [first, first + P) with a block of G registers of filters.
template <bool TernaryX, bool TernaryW, int G, int P>
void block(const ProductTile &tile, int first, Limits<G> &limits) {
    using S = Step<TernaryX, TernaryW>;
    const int64_t steps = S::kSteps * tile.words;  // of a tap
    // As many taps at once as bytes have room for, or parts of a tap, all alike but the last.
    const int64_t taps = std::max<int64_t>(1, S::kRoom / steps);
    const int64_t parts = (steps + S::kRoom - 1) / S::kRoom;
    const int64_t part = (steps / kUnrolled + parts - 1) / parts * kUnrolled;
    const auto bias = static_cast<int32_t>(S::kBias * steps * tile.taps);
    Halves halves[P][G];
    for (auto &row : halves)
        for (Halves &half : row) half.both = half.odd = _mm256_setzero_si256();
    alignas(32) int32_t counts[P][G * kLanes];
    // Whether counts fit 16 bits to the end; sums must fill registers too.
    const bool narrow = 32 * tile.words * tile.taps < 1 << 15 && (tile.levels || tile.filters == G * kLanes);
    if (!narrow)
        for (auto &row : counts) std::fill_n(row, G * kLanes, -bias);
    auto w = static_cast<const __m256i *>(tile.weights);
    int64_t folds = kFolds;
    for (int64_t tap = 0; tap < tile.taps; tap += taps)
        for (int64_t k = 0; k < steps; k += part) {
            const int64_t more = std::min(taps, tile.taps - tap), size = std::min(part, steps - k);
            count<TernaryX, TernaryW, G, P>(w, tile.x + tap * kPixels + first,
                                            2 * tile.first_word + S::kOffsets * k, more, size, halves);
            w += 2 * G * more * size;
            if (narrow || --folds > 0) continue;
            for (int p = 0; p < P; ++p) widen<G>(halves[p], counts[p]);
            folds = kFolds;
        }
    for (int p = 0; p < P; ++p) {
        if (narrow) {
            finish<G>(tile, first + p, halves[p], bias, limits);
        } else {
            widen<G>(halves[p], counts[p]);
            finish(tile, first + p, counts[p], G * kLanes);
        }
    }
}

template <bool TernaryX, bool TernaryW, int G, int P>
void pixels(const ProductTile &tile, int first, Limits<G> &limits) {
    for (; first + P <= tile.pixels; first += P) block<TernaryX, TernaryW, G, P>(tile, first, limits);
    if constexpr (P > 1)
        if (first < tile.pixels) pixels<TernaryX, TernaryW, G, P - 1>(tile, first, limits);
}

template <bool TernaryX, bool TernaryW, int G>
void pixels(const ProductTile &tile) {
    Limits<G> limits;
    pixels<TernaryX, TernaryW, G, 4>(tile, 0, limits);
}

template <bool TernaryX, bool TernaryW>
void blocks(const ProductTile &tile) {
    tile.registers == 1 ? pixels<TernaryX, TernaryW, 1>(tile) : pixels<TernaryX, TernaryW, 2>(tile);
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

const ProductKernels product_avx2{kLanes, 2, 2, arrange, run, limit, 2, spread, spread_size};

}  // namespace hypersign
