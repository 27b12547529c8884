// The product with AVX2, which has no population count: it looks counts up, for two pixels at a time.
//
// A register holds 4 levels of 32 filters, an index of 4 bits in each byte, and a shuffle looks it up in a table of
// 16 bytes. The tables are of the input: 4 levels of two pixels. The lower 4 bits of entry b count where b differs
// from the first pixel's levels, the upper 4 bits where it differs from the second's. So a shuffle does 256
// multiply-accumulates.
//
// Counts of 4 bits overflow after 3 steps. Of t, the sum of three counts, two byte accumulators are kept, from which
// the counts of both pixels follow (product/avx2.hpp) as long as none exceeds 255: 60 steps. Then the counts are
// added to counts of 16 bits in memory, and those to 32 bits before they overflow.
//
// 12 levels of two pixels and 128 filters take 12 shuffles, 8 additions for four times t, and 3 instructions for each
// of its four pairs of accumulators: 32 for 3072 multiply-accumulates. Zen has four vector ports; shuffles run on two
// of them, and shifts would, too, so t is divided by a multiplication, on the other two. That is 8 cycles: 384 per
// cycle. Filters are operands of the shuffles; with 3 tables that is 15 loads of the 16 that 8 cycles allow, and 42
// instructions of 48. Zen 3 does not reach 8 cycles even on registers alone (`peak`): it sends additions to the ports
// that shuffles wait for. Intel has three vector ports, two of which shuffle (one, before Ice Lake): 11 or 12 cycles.
// (Counts of one pixel in bytes take 4 instructions for 256 multiply-accumulates: 256 per cycle. Exclusive or, and
// counts of its bits from a table that never changes, take 8.)
//
// What a tile reads must be near. A part of the filters' fan-in is split into indices of 4 bits, 8 KiB, and meets all
// pixels of the tile, whose counts in 16 bits are 16 KiB, or 32 for levels; all tables of pairs are 4 KiB. The
// offsets of the tables for the input's levels are written once for all blocks of filters (`write_table_offsets`): 2
// bytes for 4 levels of two pixels, which the loop reads in order. A single pixel (a fully connected layer, one
// image) meets each filter once: it is bound by the cache that they come from, counts in bytes, and splits indices as
// it goes.
//
// Ternary filters have two bits per level, 2 levels per index, and run at half the speed. Tables of ternary inputs
// count disagreements minus agreements, plus a bias, because bytes have no sign. With ternary filters those are
// numbers up to 4, as binary ones are. With binary filters they go up to 8, so pixels go one by one, as does the last
// of an odd number.
//
// Instructions: Intel Intrinsics Guide; ports: uops.info, tables of VPSHUFB, VPADDB, VPMULHUW and VBROADCASTI128
// (YMM).
#include <vector>

#include "integers.hpp"
#include "product/avx2.hpp"
#include "product/lookup/lookup.hpp"

namespace hypersign {
namespace {

constexpr int kTable = 16;  // bytes of a table, one for each index of 4 bits

// A step: a register of filters, an index of 4 bits of each, looks up the tables of the input.
template <bool TernaryX, bool TernaryW>
struct Kind {
    static constexpr int kLevels = TernaryW ? 2 : 4;
    static constexpr int kSteps = 32 / kLevels;                    // of a word
    static constexpr int kMaxCount = (TernaryX ? 2 : 1) * kLevels;     // count of a step
    static constexpr int kBias = TernaryX ? kLevels : 0;           // of a step
    static constexpr bool kPairs = kMaxCount <= 4;                     // two pixels at a time
    static constexpr int kUnit = std::min(4, 15 / kMaxCount);          // steps before 4 bits overflow; 4 fit the registers
    static constexpr int kTurn = 2 * kUnit;                        // steps per turn: whole units and bytes
    static constexpr int kByteCapacity = 255 / kMaxCount / kTurn * kTurn;      // steps before 8 bits overflow

    // Levels x of a pixel against those of a filter; ternary ones have non-zeros above signs.
    static int count(int x, int w) {
        constexpr int ones = (1 << kLevels) - 1;
        const int nonzero_x = TernaryX ? x >> kLevels : ones, nonzero_w = TernaryW ? w >> kLevels : ones;
        const int meet = nonzero_x & nonzero_w & ones, differ = __builtin_popcount((x ^ w) & meet);
        return TernaryX ? kBias + 2 * differ - __builtin_popcount(meet) : differ;
    }
};

// Tables of pairs of pixels, [second, first], 4 bits each; then those of single ones.
template <typename K>
struct Tables {
    static constexpr int kSingle = K::kPairs ? 256 : 0;  // the first table of single pixels
    alignas(64) uint8_t of[(kSingle + (K::kPairs ? 16 : 256)) * kTable];

    Tables() {
        for (int x = 0; x < 256; ++x)
            for (int w = 0; w < kTable; ++w) {
                if (K::kPairs)
                    of[x * kTable + w] = static_cast<uint8_t>(K::count(x & 15, w) | K::count(x >> 4, w) << 4);
                if (!K::kPairs || x < 16) of[(kSingle + x) * kTable + w] = static_cast<uint8_t>(K::count(x, w));
            }
    }
};

template <typename K>
const uint8_t *tables() {
    static const Tables<K> made;
    return made.of;
}

// At most 4 words, then zeros.
HYPERSIGN_INLINE __m128i load_words(const uint32_t *from, int64_t words) {
    if (words == 4) return _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
    alignas(16) uint32_t some[4] = {};
    std::memcpy(some, from, 4 * words);
    return _mm_load_si128(reinterpret_cast<const __m128i *>(some));
}

// Eight ternary levels in a byte of signs and one of non-zeros, as indices of 4 bits, two levels each, non-zeros
// above signs: 0, 1 and 4, 5; then 2, 3 and 6, 7.
struct Fours {
    __m128i first, second;
    Fours(__m128i sign, __m128i nonzero) {
        const __m128i low = _mm_set1_epi8(0x33);
        first = _mm_or_si128(_mm_and_si128(sign, low), _mm_slli_epi16(_mm_and_si128(nonzero, low), 2));
        second = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(sign, 2), low), _mm_andnot_si128(low, nonzero));
    }
};

// Up to 4 words of 16 rows: byte i of all rows is of[i].
struct Columns {
    __m128i of[16];
    Columns(const uint32_t *const *rows, int64_t from, int64_t words) {
        for (int i = 0; i < 16; ++i) of[i] = load_words(rows[i] + from, words);
        for (int stage = 0; stage < 4; ++stage) {
            __m128i next[16];
            for (int i = 0; i < 8; ++i) {
                next[2 * i] = _mm_unpacklo_epi8(of[i], of[i + 8]);
                next[2 * i + 1] = _mm_unpackhi_epi8(of[i], of[i + 8]);
            }
            std::copy_n(next, 16, of);
        }
    }
};

// Writes a byte of each filter after the other: 8 levels, or 4 ternary ones.
void pack_weights(const uint32_t *const *sign, const uint32_t *const *nonzero, int64_t words, int filters, void *block) {
    const int64_t bytes = nonzero ? 2 : 1;  // of 8 levels
    for (int64_t k = 0; k < words; k += 4) {
        const int64_t some = std::min<int64_t>(4, words - k);
        for (int f = 0; f < filters; f += 16) {
            auto out = [&](int64_t byte) {
                return reinterpret_cast<__m128i *>(static_cast<uint8_t *>(block) + (4 * k * bytes + byte) * filters + f);
            };
            const Columns signs(sign + f, k, some);
            if (!nonzero) {
                for (int64_t i = 0; i < 4 * some; ++i) _mm_storeu_si128(out(i), signs.of[i]);
                continue;
            }
            const Columns nonzeros(nonzero + f, k, some);
            for (int64_t i = 0; i < 4 * some; ++i) {
                const Fours fours(signs.of[i], nonzeros.of[i]);
                _mm_storeu_si128(out(2 * i), fours.first);
                _mm_storeu_si128(out(2 * i + 1), fours.second);
            }
        }
    }
}

// The steps of a tile, those in whole turns, and how many are counted in bytes.
template <typename K>
struct Plan {
    int64_t steps, filled, part;
    int64_t stride;  // of the table offsets of two pixels: an odd number of cache lines
    int64_t pairs, rows;  // pairs of pixels, and pairs and single pixels

    int64_t pixel(int64_t row) const { return row < pairs ? 2 * row : pairs + row; }

    explicit Plan(const ProductTile &tile)
        : steps(K::kSteps * tile.words * tile.taps), pairs(K::kPairs ? tile.pixels / 2 : 0), rows(tile.pixels - pairs) {
        const int64_t turn = pairs ? K::kTurn : 2, turns = (steps + turn - 1) / turn;
        filled = turns * turn;
        stride = ((filled + 31) / 32 | 1) * 32;
        const int64_t parts = (filled + K::kByteCapacity - 1) / K::kByteCapacity;
        part = (turns + parts - 1) / parts * turn;
    }
};

constexpr int64_t kSlack = 96;  // offsets written past the end

// Offsets of 32 tables, whose numbers are 4 bits in `low`, and above them 4 bits in `high`.
HYPERSIGN_INLINE void write_offsets(__m128i low, __m128i high, int first_table, uint16_t *out) {
    const __m128i ones = _mm_set1_epi8(15);
    const __m128i even = _mm_or_si128(_mm_and_si128(low, ones), _mm_slli_epi16(_mm_and_si128(high, ones), 4));
    const __m128i odd = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(low, 4), ones), _mm_andnot_si128(ones, high));
    const __m256i first = _mm256_set1_epi16(static_cast<int16_t>(first_table * kTable));
    auto at = reinterpret_cast<__m256i *>(out);
    auto write = [&](int i, __m128i numbers) {
        const __m256i table_offsets = _mm256_slli_epi16(_mm256_cvtepu8_epi16(numbers), 4);
        _mm256_storeu_si256(at + i, _mm256_add_epi16(table_offsets, first));
    };
    write(0, _mm_unpacklo_epi8(even, odd));
    write(1, _mm_unpackhi_epi8(even, odd));
}

template <bool TernaryX, bool TernaryW>
void write_table_offsets(const ProductTile &tile, uint16_t *table_offsets) {
    using K = Kind<TernaryX, TernaryW>;
    const Plan<K> plan(tile);
    constexpr int kPlanes = TernaryX ? 2 : 1;
    const __m128i zero = _mm_setzero_si128();
    for (int64_t row = 0; row < plan.rows; ++row) {
        const bool pair = row < plan.pairs;
        const int64_t p = plan.pixel(row);
        const int first_table = pair ? 0 : Tables<K>::kSingle;
        uint16_t *out = table_offsets + row * plan.stride;
        for (int64_t tap = 0; tap < tile.taps; ++tap) {
            const uint32_t *const *x = tile.x + tap * kPlanes * kPixels + p;
            const uint32_t *sign = x[0] + tile.first_word, *second = pair ? x[1] + tile.first_word : nullptr;
            const uint32_t *nonzero = TernaryX ? x[kPixels] + tile.first_word : nullptr;
            const uint32_t *second_nonzero = TernaryX && pair ? x[kPixels + 1] + tile.first_word : nullptr;
            auto write = [&](int64_t k, int64_t words) {
                auto load = [&](const uint32_t *from) { return load_words(from + k, words); };
                const __m128i a = load(sign), b = pair ? load(second) : zero;
                const __m128i na = TernaryX ? load(nonzero) : zero, nb = TernaryX && pair ? load(second_nonzero) : zero;
                if (TernaryW) {
                    const Fours one(a, na), other(b, nb);
                    auto side_by_side = [](const Fours &of, bool upper) {
                        return upper ? _mm_unpackhi_epi8(of.first, of.second) : _mm_unpacklo_epi8(of.first, of.second);
                    };
                    write_offsets(side_by_side(one, false), side_by_side(other, false), first_table, out);
                    write_offsets(side_by_side(one, true), side_by_side(other, true), first_table, out + 32);
                } else {
                    write_offsets(a, TernaryX ? na : b, first_table, out);
                }
                out += words * K::kSteps;
            };
            int64_t k = 0;
            for (; k + 4 <= tile.words; k += 4) write(k, 4);
            if (k < tile.words) write(k, tile.words - k);
        }
        write_offsets(zero, zero, first_table, out);  // the steps that fill up a turn count the bias
    }
}

// Splits `steps` steps of the filters, from `first` on, into registers of indices of 4 bits; zeros past the last.
template <typename K, int G>
void split_filters(const ProductTile &tile, const Plan<K> &plan, int64_t first, int64_t steps, __m256i *out) {
    auto block = static_cast<const __m256i *>(tile.weights);
    const __m256i ones = _mm256_set1_epi8(15);
    const int64_t last = std::min(first + steps, plan.steps);
    for (int64_t k = first; k < last; k += 2, out += 2 * G)
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) {
            const __m256i byte = _mm256_load_si256(block + k / 2 * G + g);
            out[g] = _mm256_and_si256(byte, ones);
            out[G + g] = _mm256_and_si256(_mm256_srli_epi16(byte, 4), ones);
        }
    std::fill_n(out, (first + steps - last) * G, _mm256_setzero_si256());
}

inline __m256i table_at(const uint8_t *table) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i *>(table)));
}

// Counts `steps` steps of two pixels, at most Kind::kByteCapacity.
template <typename K, int G, bool First>
HYPERSIGN_INLINE void count_pair(const uint8_t *base, const __m256i *w, const uint16_t *table_offsets, int64_t steps,
                                 Counts16 (&one)[G], Counts16 (&other)[G]) {
    Accumulators<G> accumulators;
    const __m256i factor = sixteenth();
    const uint16_t *const end = table_offsets + steps;
    for (; table_offsets < end; table_offsets += K::kTurn)
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half, w += K::kUnit * G) {
            __m256i table[K::kUnit];
#pragma GCC unroll 8
            for (int i = 0; i < K::kUnit; ++i) table[i] = table_at(base + table_offsets[half * K::kUnit + i]);
            auto counts = [&](int g) __attribute__((always_inline)) {
                __m256i t = _mm256_shuffle_epi8(table[0], w[g]);
#pragma GCC unroll 8
                for (int i = 1; i < K::kUnit; ++i) t = _mm256_add_epi8(t, _mm256_shuffle_epi8(table[i], w[i * G + g]));
                return t;
            };
            accumulators.add(counts, factor);
        }
    separate<First>(accumulators, one, other, 1);
}

template <bool First, int G>
HYPERSIGN_INLINE void accumulate_bytes(const __m256i (&bytes)[G], Counts16 (&to)[G]) {
    const __m256i low = _mm256_set1_epi16(255);
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g)
        accumulate<First>(_mm256_and_si256(bytes[g], low), _mm256_srli_epi16(bytes[g], 8), to[g]);
}

// The same of one pixel.
template <typename K, int G, bool First>
HYPERSIGN_INLINE void count_single(const uint8_t *base, const __m256i *w, const uint16_t *table_offsets, int64_t steps,
                                   Counts16 (&one)[G]) {
    __m256i bytes[G];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) bytes[g] = _mm256_setzero_si256();
    for (int64_t k = 0; k < steps; ++k, w += G) {
        const __m256i table = table_at(base + table_offsets[k]);
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) bytes[g] = _mm256_add_epi8(bytes[g], _mm256_shuffle_epi8(table, w[g]));
    }
    accumulate_bytes<First>(bytes, one);
}

// The only pixel of a tile: splitting the filters beforehand does not pay.
template <typename K, int G, bool First>
__attribute__((noinline)) void count_only(const __m256i *block, const uint16_t *table_offsets, int64_t steps,
                                          Counts16 (&one)[G]) {
    const uint8_t *const base = tables<K>();
    const __m256i ones = _mm256_set1_epi8(15);
    __m256i bytes[G];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) bytes[g] = _mm256_setzero_si256();
    for (int64_t k = 0; k < steps; k += 2, block += G) {
        const __m256i first = table_at(base + table_offsets[k]), second = table_at(base + table_offsets[k + 1]);
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) {
            const __m256i w = _mm256_load_si256(block + g), upper = _mm256_and_si256(_mm256_srli_epi16(w, 4), ones);
            bytes[g] = _mm256_add_epi8(bytes[g], _mm256_shuffle_epi8(first, _mm256_and_si256(w, ones)));
            bytes[g] = _mm256_add_epi8(bytes[g], _mm256_shuffle_epi8(second, upper));
        }
    }
    accumulate_bytes<First>(bytes, one);
}

// All pixels of the tile. A function of its own, so that everything its loops read stays in registers. Where the
// epilogue writes sums next, the cache fetches their lines meanwhile.
template <typename K, int G, bool First>
__attribute__((noinline)) void count(const Plan<K> &plan, const __m256i *w, const uint16_t *table_offsets,
                                     int64_t steps, const ProductTile *to, Counts16 (*counts16)[G]) {
    const uint8_t *const base = tables<K>();
    if constexpr (K::kPairs)
        for (int64_t pair = 0; pair < plan.pairs; ++pair, table_offsets += plan.stride, counts16 += 2) {
            for (int p = 0; to && p < 2; ++p)
                for (int i = 0; i < to->filters; i += 16)
                    _mm_prefetch(to->sums + (2 * pair + p) * to->sums_stride + i, _MM_HINT_T1);
            for (int i = 0; i < 2; ++i) _mm_prefetch(table_offsets + 2 * plan.stride + 32 * i, _MM_HINT_T0);
            count_pair<K, G, First>(base, w, table_offsets, steps, counts16[0], counts16[1]);
        }
    for (int64_t row = plan.pairs; row < plan.rows; ++row, table_offsets += plan.stride, ++counts16)
        count_single<K, G, First>(base, w, table_offsets, steps, *counts16);
}

template <typename K, int G>
void tile_of(const ProductTile &tile) {
    constexpr int kFolds = 65535 / (K::kByteCapacity * K::kMaxCount);  // of bytes, before 16 bits overflow
    const Plan<K> plan(tile);
    // Whether counts fit 16 bits to the end, and the epilogue takes them.
    const bool narrow = 32 * tile.words * tile.taps < 1 << 15 && (tile.levels || tile.filters % 8 == 0);
    const auto bias = static_cast<int32_t>(K::kBias * plan.filled);
    __m256i w[K::kByteCapacity * G];
    Counts16 counts16[kPixels][G];
    struct alignas(32) Counts {
        int32_t of[G * kLanes];
    };
    std::vector<Counts> counts(narrow ? 0 : tile.pixels);
    for (Counts &pixel : counts) std::fill_n(pixel.of, G * kLanes, -bias);
    Thresholds16<G> thresholds;
    int folds = 0;
    for (int64_t from = 0; from < plan.filled; from += plan.part) {
        const int64_t steps = std::min(plan.part, plan.filled - from);
        const bool last = from + steps == plan.filled;
        const uint16_t *table_offsets = tile.table_offsets + from;
        if (tile.pixels == 1) {
            auto block = static_cast<const __m256i *>(tile.weights) + from / 2 * G;
            folds ? count_only<K, G, false>(block, table_offsets, steps, *counts16)
                  : count_only<K, G, true>(block, table_offsets, steps, *counts16);
        } else {
            split_filters<K, G>(tile, plan, from, steps, w);
            const ProductTile *to = last && tile.sums ? &tile : nullptr;
            folds ? count<K, G, false>(plan, w, table_offsets, steps, to, counts16)
                  : count<K, G, true>(plan, w, table_offsets, steps, to, counts16);
        }
        if (++folds, narrow || (folds < kFolds && !last)) continue;
        for (int p = 0; p < tile.pixels; ++p) widen<G>(counts16[p], counts[p].of);
        folds = 0;
    }
    const __m256i bias16 = _mm256_set1_epi16(static_cast<int16_t>(bias));
    for (int p = 0; p < tile.pixels; ++p)
        if (!narrow)
            epilogue32(tile, p, counts[p].of, G * kLanes);
        else if (tile.sums)
            epilogue_sums<(K::kBias > 0), G>(tile, p, counts16[p], bias16, thresholds);
        else
            epilogue_levels<(K::kBias > 0), G>(tile, p, counts16[p], bias16, thresholds);
}

template <bool TernaryX, bool TernaryW>
void blocks(const ProductTile &tile) {
    using K = Kind<TernaryX, TernaryW>;
    tile.registers == 1 ? tile_of<K, 1>(tile) : tile.registers == 2 ? tile_of<K, 2>(tile) : tile_of<K, 4>(tile);
}

void run(const ProductTile &tile) {
    if (tile.ternary_x)
        tile.ternary_w ? blocks<true, true>(tile) : blocks<true, false>(tile);
    else
        tile.ternary_w ? blocks<false, true>(tile) : blocks<false, false>(tile);
}

void write_table_offsets(const ProductTile &tile, uint16_t *table_offsets) {
    if (tile.ternary_x)
        tile.ternary_w ? write_table_offsets<true, true>(tile, table_offsets)
                       : write_table_offsets<true, false>(tile, table_offsets);
    else
        tile.ternary_w ? write_table_offsets<false, true>(tile, table_offsets)
                       : write_table_offsets<false, false>(tile, table_offsets);
}

template <bool TernaryX, bool TernaryW>
int64_t workspace_size(const ProductTile &tile) {
    const Plan<Kind<TernaryX, TernaryW>> plan(tile);
    return plan.rows * plan.stride + kSlack;
}

int64_t workspace_size(const ProductTile &tile) {
    if (tile.ternary_x) return tile.ternary_w ? workspace_size<true, true>(tile) : workspace_size<true, false>(tile);
    return tile.ternary_w ? workspace_size<false, true>(tile) : workspace_size<false, false>(tile);
}

// 12 levels of two pixels and 128 filters in 32 instructions.
int64_t peak(int64_t rounds) {
    constexpr int kFilters = 4, kUnit = 3;
    __m256i table = _mm256_set1_epi8(static_cast<char>(rounds)), w[2] = {table, table}, whole[kFilters], upper[kFilters];
    for (int i = 0; i < kFilters; ++i) whole[i] = upper[i] = table;
    for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 4
        for (int i = 0; i < kFilters; ++i) {
            __asm__ volatile("" : "+x"(table), "+x"(w[0]), "+x"(w[1]));  // as if they came new
            __m256i t = _mm256_shuffle_epi8(table, w[0]);
            t = _mm256_add_epi8(t, _mm256_shuffle_epi8(w[0], w[1]));
            t = _mm256_add_epi8(t, _mm256_shuffle_epi8(w[1], table));
            whole[i] = _mm256_add_epi8(whole[i], t);
            upper[i] = _mm256_add_epi8(upper[i], _mm256_srli_epi16(t, 4));
        }
    for (int i = 0; i < kFilters; ++i) __asm__ volatile("" : : "x"(whole[i]), "x"(upper[i]));
    return rounds * kFilters * kUnit * 256;
}

}  // namespace

const ProductKernels product_avx2{
    kLanes, 4, 4, 64, 128, pack_weights, run, peak, write_table_offsets, workspace_size, &lookup_avx2};

}  // namespace hypersign
