// What the AVX2 lookups share: indices of levels, tables of a block of filters, the epilogue of a pixel.
#pragma once
#include "integers.hpp"
#include "product/avx2.hpp"
#include "product/lookup/lookup.hpp"

namespace hypersign {

// Whether `run_narrow` takes the task: one register of filters, few channels, binary inputs.
bool is_narrow(const ProductTile &tile);
void run_narrow(const LookupTask &task);

namespace {  // a copy for each file: no vector is handed from one to the other

constexpr int kHalf = 32;              // bytes of half an entry, 4 bits of 64 filters
constexpr int kEntries = 32;           // of a table; ternary levels use 27
constexpr int kIndexBytes = 16;        // of a pixel in a slice: up to 15 indices and a gap
constexpr int kTables = 30 * 1024;     // bytes of a pass's tables, for the L1 cache

// How many levels an index stands for, how many entries fill 4 bits, and how many indices a pass has. `Transposed`:
// rows are filters.
template <bool TernaryX, bool Transposed>
struct Indices {
    static constexpr int kLevels = TernaryX ? 3 : 5;
    static constexpr int kStates = TernaryX ? 3 : 2;       // of a level
    static constexpr int kMaxCount = TernaryX ? 6 : 5;     // of an entry
    static constexpr int kUnit = 15 / kMaxCount;           // entries before 4 bits overflow
    static constexpr int kByteCapacity = 255 / kMaxCount;  // entries before 8 bits overflow
    static constexpr int kPassIndices = (TernaryX ? 14 : 15) * (Transposed ? 2 : 1);  // maximum

    int64_t count, slices;  // indices of a tap, and the slices that they are divided into

    explicit Indices(int64_t depth)
        : count(ceil_div(depth, kLevels)), slices(ceil_div(count, kPassIndices)) {}
    int64_t first(int64_t slice) const { return slice * count / slices; }
};

// The bits of a level: those of 32 filters in the lower 4 bits of a byte, and those of 32 others, if any, in the
// upper.
template <bool Both>
HYPERSIGN_INLINE __m256i bits_at(const __m256i *registers, int bit) {
    const __m128i shift = _mm_cvtsi32_si128(bit);
    const __m256i one = _mm256_set1_epi8(1);
    const __m256i low = _mm256_and_si256(_mm256_srl_epi16(registers[0], shift), one);
    if (!Both) return low;
    const __m256i high = _mm256_and_si256(_mm256_srl_epi16(registers[1], shift), one);
    return _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
}

// Fills the table of one index: levels [first, first + kLevels) of a tap; some may lie past its end. Entries of one
// register of filters may have 16 bytes, of the first 16 filters.
template <bool TernaryX, bool TernaryW, int G, int Bytes = (G + 1) / 2 * kHalf>
void tabulate(const ProductTile &tile, const void *block_of_filters, int64_t tap, int64_t first, uint8_t *table) {
    using N = Indices<TernaryX, false>;
    const auto block = static_cast<const __m256i *>(block_of_filters);
    constexpr bool kBoth = G > 1;
    const __m256i ones = _mm256_set1_epi8(kBoth ? 0x11 : 1), zero = _mm256_setzero_si256();
    for (int h = 0; h < (G + 1) / 2; ++h) {
        __m256i start = zero;                      // the count of index 0
        __m256i more[N::kLevels][N::kStates - 1];  // what another state of a level adds
        for (int i = 0; i < N::kLevels; ++i) {
            const int64_t level = first + i;
            if (level >= tile.depth) {
                for (__m256i &state : more[i]) state = zero;
                continue;
            }
            // 8 levels are a byte of each filter; ternary ones are two (`pack_weights`).
            const int bit = static_cast<int>(level % 8);
            const int64_t byte = 4 * tile.words * tap + level / 8;
            __m256i minus, nonzero = ones;
            if (TernaryW) {
                const __m256i *at = block + (2 * byte + bit / 2 % 2) * G + 2 * h;
                minus = bits_at<kBoth>(at, bit % 2 + bit / 4 * 4);
                nonzero = bits_at<kBoth>(at, bit % 2 + bit / 4 * 4 + 2);
            } else {
                minus = bits_at<kBoth>(block + byte * G + 2 * h, bit);
            }
            const __m256i twice = _mm256_add_epi8(minus, minus);
            if constexpr (TernaryX) {
                start = _mm256_add_epi8(start, ones);
                more[i][0] = _mm256_sub_epi8(twice, nonzero);
                more[i][1] = _mm256_sub_epi8(nonzero, twice);
            } else {
                start = _mm256_add_epi8(start, minus);
                more[i][0] = _mm256_sub_epi8(nonzero, twice);
            }
        }
        // Indices of the first levels in registers, of which those of all levels are made.
        constexpr int kFirst = TernaryX ? 2 : 3, kKnown = TernaryX ? 9 : 8;
        __m256i rows[kKnown];
        rows[0] = start;
        int known = 1;
#pragma GCC unroll 4
        for (int i = 0; i < kFirst; ++i) {
#pragma GCC unroll 4
            for (int state = 1; state < N::kStates; ++state)
#pragma GCC unroll 16
                for (int j = 0; j < known; ++j) rows[state * known + j] = _mm256_add_epi8(rows[j], more[i][state - 1]);
            known *= N::kStates;
        }
        uint8_t *const out = table + kHalf * h;
        auto write = [&](int from, const __m256i &added) {
#pragma GCC unroll 16
            for (int j = 0; j < kKnown; ++j) {
                const __m256i entry = _mm256_add_epi8(rows[j], added);
                uint8_t *const to = out + (from + j) * Bytes;
                if constexpr (Bytes == 16)
                    _mm_store_si128(reinterpret_cast<__m128i *>(to), _mm256_castsi256_si128(entry));
                else
                    _mm256_store_si256(reinterpret_cast<__m256i *>(to), entry);
            }
        };
        write(0, zero);
        write(kKnown, more[kFirst][0]);
        if constexpr (TernaryX) {
            write(2 * kKnown, more[kFirst][1]);
        } else {
            write(2 * kKnown, more[kFirst + 1][0]);
            write(3 * kKnown, _mm256_add_epi8(more[kFirst][0], more[kFirst + 1][0]));
        }
    }
}

// Reads the indices of a pixel, one after the other. Eight of them are one load, because loads are the bottleneck.
struct IndexReader {
    const uint8_t *from;
    uint64_t eight;

    template <int I>
    HYPERSIGN_INLINE int64_t next() {
        if (I % 8 == 0) std::memcpy(&eight, from + I, sizeof eight);
        int64_t index;
        // One instruction each: the compiler would copy the eight before it shifts them.
        if (I % 2 == 0)
            __asm__("movzbl %b1, %k0" : "=R"(index) : "Q"(eight));
        else
            __asm__("movzbl %h1, %k0\n\tshr $16, %1" : "=&R"(index), "+Q"(eight));
        return index;
    }
};

// Epilogue of a pixel: sums or levels.
template <bool TernaryX, int G>
HYPERSIGN_INLINE void epilogue_pixel(const ProductTile &tile, int64_t p, const Counts16 (&of)[G],
                                     Thresholds16<G> &thresholds) {
    const auto bias = static_cast<int32_t>(TernaryX ? tile.depth * tile.taps : 0);
    const __m256i bias16 = _mm256_set1_epi16(static_cast<int16_t>(bias));
    if (tile.levels) {
        epilogue_levels<TernaryX, G>(tile, p, of, bias16, thresholds);
    } else if (tile.filters % 8 == 0) {
        epilogue_sums<TernaryX, G>(tile, p, of, bias16, thresholds);
    } else {
        alignas(32) int32_t counts[G * kLanes];
        std::fill_n(counts, G * kLanes, -bias);
        widen<G>(of, counts);
        epilogue32(tile, p, counts, G * kLanes);
    }
}

}  // namespace
}  // namespace hypersign
