// The product of many pixels with AVX2: what filters count of some levels is tabulated, and looked up by every pixel:
// the method of the four Russians (Arlazarov, Dinic, Kronrod and Faradzhev, 1970).
//
// 5 levels of a pixel are one of 32 numbers, and against each of those 128 filters count up to 5 disagreements. All 32
// times 128 counts, of 4 bits, are a table of 2 KiB, of which a pixel takes a row: two registers. Three rows fill 4
// bits; then the counts go on into bytes (product/avx2.hpp), of 51 numbers at most.
//
// 15 levels of a pixel and 128 filters are 6 loads of 32 bytes and 10 additions and shifts: 3 cycles where two vectors
// are loaded a cycle, as on Zen (Intel loads as many, or three). That is 640 multiply-accumulates a cycle, where
// counting each (product/avx2.cpp) does 384 at most. Where a row lies would take a third load, and Zen has no room for
// them all; so eight places come with one, and are cut apart. Tables must be in the L1 cache, so a sweep of all pixels
// takes up to 15 numbers, 30 KiB, and sums of bytes wait in the L2 cache for the next one: 4 loads and 4 stores, which
// Zen takes 4 cycles for, beside 15. Filling the tables takes 64 stores a number, 960 cycles for a sweep.
//
// As measured on Zen 3, sweeps are the faster way from 224 pixels on. Of blocks of 64 filters, or 32, for which tiles
// load as much as for 128, they are that from 24 pixels on.
//
// Few pixels and many filters change places: 64 pixels are tabulated, and filters look up. Their numbers do not change,
// and are written down once. Half a row is all of it, so a sweep takes up to 30 numbers. From 384 filters on that is
// the faster way for 58 to 64 pixels: one image of 8 x 8, or rows of a batch.
//
// Of ternary inputs, 3 levels are one of 27 numbers, in base 3: what a level adds is 1 + its disagreement - its
// agreement, up to 6 for three of them, and two rows fill 4 bits. So they take some 1.7 times as long. Whether filters
// are binary or ternary makes no difference to any but who fills the tables.
//
// Instructions: Intel Intrinsics Guide; ports: uops.info, tables of VPADDB and VMOVDQA (YMM, M256).
#include <memory>
#include <vector>

#include "product/avx2.hpp"

namespace hypersign {
namespace {

constexpr int kHalf = 32;            // bytes of half a row, 4 bits of 64 filters
constexpr int kRows = 32;            // of a table; of ternary levels 27
constexpr int kSlot = 16;            // places of a pixel in a slice, the numbers of a sweep and what fills them up
constexpr int kTransposedSlot = 32;  // of a filter
constexpr int kTables = 30 * 1024;   // bytes of a sweep's tables, for the L1 cache

// What a number stands for, how many rows fill 4 bits, and a sweep's numbers at most.
template <bool TernaryX, bool Transposed>
struct Numbers {
    static constexpr int kLevels = TernaryX ? 3 : 5;
    static constexpr int kStates = TernaryX ? 3 : 2;  // of a level
    static constexpr int kMost = TernaryX ? 6 : 5;    // that a number counts
    static constexpr int kUnit = 15 / kMost;
    static constexpr int kRoom = 255 / kMost;         // numbers before 8 bits overflow
    static constexpr int kSweep = (TernaryX ? 14 : 15) * (Transposed ? 2 : 1);

    int64_t count, slices;  // numbers of a tap, and the sweeps that take them

    explicit Numbers(int64_t words)
        : count((32 * words + kLevels - 1) / kLevels), slices((count + kSweep - 1) / kSweep) {}
    int64_t first(int64_t slice) const { return slice * count / slices; }
};

// How 16 numbers side by side are cut out, from a bit of a byte on.
template <int Levels>
struct Cut {
    alignas(32) uint8_t bytes[8][32];
    alignas(32) uint16_t up[8][16];  // factors which move a number to the top of 16 bits

    constexpr Cut() : bytes(), up() {
        for (int from = 0; from < 8; ++from)
            for (int i = 0; i < 16; ++i) {
                const int bit = from + i * Levels;
                bytes[from][2 * i] = static_cast<uint8_t>(bit / 8);
                bytes[from][2 * i + 1] = static_cast<uint8_t>(bit / 8 + 1);
                up[from][i] = static_cast<uint16_t>(1 << (16 - Levels - bit % 8));
            }
    }
};

constexpr Cut<5> kFives;
constexpr Cut<3> kThrees;

// Cuts numbers from the words of pixels, from bit `first` of `bytes` bytes on. What it takes for levels past the end is
// anything; tables do not tell it apart.
template <int Levels>
class Cutter {
   public:
    Cutter(const Cut<Levels> &cut, int64_t first, int64_t bytes) {
        from_ = first / 8;
        left_ = bytes - from_;
        windows_ = _mm256_load_si256(reinterpret_cast<const __m256i *>(cut.bytes[first % 8]));
        up_ = _mm256_load_si256(reinterpret_cast<const __m256i *>(cut.up[first % 8]));
        if (left_ < 16 && bytes >= 16) {  // 16 bytes that end there
            windows_ = _mm256_add_epi8(windows_, _mm256_set1_epi8(static_cast<char>(16 - left_)));
            from_ = bytes - 16;
            left_ = 16;
        }
    }
    HYPERSIGN_INLINE __m256i operator()(const uint32_t *words) const {
        const uint8_t *from = reinterpret_cast<const uint8_t *>(words) + from_;
        __m128i bits;
        if (left_ >= 16) {
            bits = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
        } else {
            alignas(16) uint8_t some[16] = {};
            std::memcpy(some, from, left_);
            bits = _mm_load_si128(reinterpret_cast<const __m128i *>(some));
        }
        const __m256i windows = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bits), windows_);
        return _mm256_srli_epi16(_mm256_mullo_epi16(windows, up_), 16 - Levels);
    }

   private:
    int64_t from_, left_;
    __m256i windows_, up_;
};

// As measured. Of 64 filters and fewer, tiles load too much for what they count.
bool better(int64_t pixels, int64_t levels, int registers) {
    return levels < 1 << 15 && pixels >= (registers > 2 ? 224 : 24);
}

template <bool Transposed>
int64_t slices(bool ternary, int64_t words) {
    return ternary ? Numbers<true, Transposed>(words).slices : Numbers<false, Transposed>(words).slices;
}

// Calls cut() for one pixel after another, and writes what it returns; those of two pixels together.
template <typename Cut>
HYPERSIGN_INLINE void write_places(int64_t pixels, uint8_t *places, Cut &&cut) {
    int64_t p = 0;
    for (; p + 2 <= pixels; p += 2, places += 2 * kSlot) {
        const __m256i first = cut(), both = _mm256_packus_epi16(first, cut());
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(places),
                            _mm256_slli_epi16(_mm256_permute4x64_epi64(both, 0xd8), 3));
    }
    if (p < pixels) {
        const __m256i numbers = cut(), both = _mm256_packus_epi16(numbers, numbers);
        _mm_storeu_si128(reinterpret_cast<__m128i *>(places),
                         _mm256_castsi256_si128(_mm256_slli_epi16(_mm256_permute4x64_epi64(both, 0xd8), 3)));
    }
}

void number(const uint32_t *sign, const uint32_t *nonzero, int64_t words, int64_t pixels, int64_t stride, int64_t slice,
            uint8_t *places) {
    if (nonzero) {
        // In base 3, as sums of the digits 1 of non-zeros and of signs: 0 for 0, 1 for +1, 2 for -1.
        const __m256i base3 =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 3, 4, 9, 10, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0));
        const Cutter<3> cut(kThrees, 3 * Numbers<true, false>(words).first(slice), 4 * words);
        write_places(pixels, places, [&] {
            const __m256i n = cut(nonzero), s = _mm256_and_si256(cut(sign), n);
            sign += stride;
            nonzero += stride;
            return _mm256_add_epi16(_mm256_shuffle_epi8(base3, n), _mm256_shuffle_epi8(base3, s));
        });
    } else {
        const Cutter<5> cut(kFives, 5 * Numbers<false, false>(words).first(slice), 4 * words);
        write_places(pixels, places, [&] {
            const __m256i numbers = cut(sign);
            sign += stride;
            return numbers;
        });
    }
}

// The bits of a level: of 32 filters in the lower 4 bits of a byte, of 32 others, if there are, in the upper.
template <bool Both>
HYPERSIGN_INLINE __m256i bits_at(const __m256i *registers, int bit) {
    const __m128i shift = _mm_cvtsi32_si128(bit);
    const __m256i one = _mm256_set1_epi8(1);
    const __m256i low = _mm256_and_si256(_mm256_srl_epi16(registers[0], shift), one);
    if (!Both) return low;
    const __m256i high = _mm256_and_si256(_mm256_srl_epi16(registers[1], shift), one);
    return _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
}

// Writes the table of one number: levels [first, first + kLevels) of a tap of `words` words, of which some may lie past
// its end.
template <bool TernaryX, bool TernaryW, int G>
void tabulate(const __m256i *block, int64_t words, int64_t tap, int64_t first, uint8_t *table) {
    using N = Numbers<TernaryX, false>;
    const __m256i ones = _mm256_set1_epi8(0x11), zero = _mm256_setzero_si256();
    constexpr bool kBoth = G > 1;
    for (int h = 0; h < (G + 1) / 2; ++h) {
        __m256i start = zero;                      // what the number 0 counts
        __m256i more[N::kLevels][N::kStates - 1];  // and what another state of a level adds
        for (int i = 0; i < N::kLevels; ++i) {
            const int64_t level = first + i;
            if (level >= 32 * words) {
                for (__m256i &state : more[i]) state = zero;
                continue;
            }
            // 8 levels lie in a byte of each filter; ternary ones in two (`arrange`).
            const int bit = static_cast<int>(level % 8);
            const int64_t byte = 4 * words * tap + level / 8;
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
        // Numbers of the first levels in registers, of which those of all levels are made.
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
        auto out = reinterpret_cast<__m256i *>(table + kHalf * h);
        auto write = [&](int from, const __m256i &added) {
#pragma GCC unroll 16
            for (int j = 0; j < kKnown; ++j)
                _mm256_store_si256(out + (from + j) * ((G + 1) / 2), _mm256_add_epi8(rows[j], added));
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

// A sweep: some numbers of all pixels.
struct Sweep {
    int numbers;
    const uint8_t *places;   // of the first pixel of the input, or filter
    bool first, last;        // of a round: sums of bytes begin, end
    bool first_round;
    const ProductTile *to;   // sums that are written next
    int64_t row, rows;       // pixels, or filters: the first, and how many
};

// Where a thread keeps counts.
struct Room {
    alignas(64) uint8_t tables[kTables];
    alignas(64) __m256i bytes[kSweep * 4];
    alignas(64) Halves halves[kSweep * 4];
    alignas(64) Halves transposed[kTransposedPixels][4];  // of 128 filters
};

// The places of a pixel, one after another; eight of them are one load, and no load is to spare.
struct Places {
    const uint8_t *from;
    uint64_t eight;

    template <int I>
    HYPERSIGN_INLINE int64_t next() {
        if (I % 8 == 0) std::memcpy(&eight, from + I, sizeof eight);
        int64_t place;
        // As an instruction each: the compiler would copy the eight before it shifts them.
        if (I % 2 == 0)
            __asm__("movzbl %b1, %k0" : "=R"(place) : "Q"(eight));
        else
            __asm__("movzbl %h1, %k0\n\tshr $16, %1" : "=&R"(place), "+Q"(eight));
        return place;
    }
};

// Half h of the row at `place` of table I, of H halves. An address as instructions have it: the compiler would compute
// it before.
template <int H, int I, int h, bool First>
HYPERSIGN_INLINE void add_row(const uint8_t *tables, int64_t place, __m256i &t) {
    auto &all = *reinterpret_cast<const uint8_t(*)[kTables]>(tables);
    constexpr int kAt = (I * kRows * H + h) * kHalf, kScale = kHalf / 8 * H;
    if (First)
        __asm__("vmovdqa %c3(%1,%2,%c4), %0" : "=x"(t) : "r"(tables), "r"(place), "i"(kAt), "i"(kScale), "m"(all));
    else
        __asm__("vpaddb %c3(%1,%2,%c4), %0, %0" : "+x"(t) : "r"(tables), "r"(place), "i"(kAt), "i"(kScale), "m"(all));
}

// Adds the rows of numbers I to Count - 1, `Unit` of them before 4 bits overflow.
template <int H, int Unit, int Count, int I = 0>
HYPERSIGN_INLINE void add_rows(const uint8_t *tables, Places &places, __m256i (&t)[H], Sums<H> &sums) {
    if constexpr (I < Count) {
        const int64_t place = places.next<I>();
        add_row<H, I, 0, I % Unit == 0>(tables, place, t[0]);
        if constexpr (H > 1) add_row<H, I, 1, I % Unit == 0>(tables, place, t[1]);
        if constexpr (I % Unit == Unit - 1 || I == Count - 1)
            sums.add([&](int h) __attribute__((always_inline)) { return t[h]; });
        add_rows<H, Unit, Count, I + 1>(tables, places, t, sums);
    }
}

template <int H, int Unit, int Count>
__attribute__((noinline)) void count(const ProductSweep &work, const Sweep &sweep, Room &room) {
    // What the loop reads is in registers: its loads are what bounds it.
    const uint8_t *const tables = room.tables;
    const int64_t *at = work.at + sweep.row, *const end = at + sweep.rows;
    const uint8_t *const first_places = sweep.places;
    const bool first = sweep.first, last = sweep.last, first_round = sweep.first_round;
    const ProductTile *const to = sweep.to;
    int32_t *out = to ? to->sums + sweep.row * to->sums_stride : nullptr;
    __m256i *bytes = room.bytes + 2 * H * sweep.row;
    Halves *halves = room.halves + 2 * H * sweep.row;
    const uint8_t *next = first_places + *at;
    while (at < end) {
        Places places{next, 0};
        next = first_places + *++at;  // early: what is loaded from there waits for it
        Sums<H> sums;
        __m256i t[H];
        add_rows<H, Unit, Count>(tables, places, t, sums);
        if (!first) sums.add_stored(bytes);
        if (!last)
            sums.store(bytes);
        else if (first_round)
            put<true>(sums, halves, halves + 1, 2);
        else
            put<false>(sums, halves, halves + 1, 2);
        bytes += 2 * H;
        halves += 2 * H;
        if (to) {  // the cache fetches their lines in the meantime
            for (int i = 0; i < to->filters; i += 16) _mm_prefetch(out + i, _MM_HINT_T1);
            out += to->sums_stride;
        }
    }
}

template <int H, int Unit, int Count>
void count_numbers(const ProductSweep &work, const Sweep &sweep, Room &room) {
    if constexpr (Count > 1)
        if (sweep.numbers < Count) return count_numbers<H, Unit, Count - 1>(work, sweep, room);
    count<H, Unit, Count>(work, sweep, room);
}

// Sums or levels of a pixel.
template <bool TernaryX, int G>
HYPERSIGN_INLINE void write_pixel(const ProductTile &tile, int64_t p, const Halves (&of)[G], Limits<G> &limits) {
    const auto bias = static_cast<int32_t>(TernaryX ? 32 * tile.words * tile.taps : 0);
    const __m256i bias16 = _mm256_set1_epi16(static_cast<int16_t>(bias));
    if (tile.levels) {
        write_levels<TernaryX, G>(tile, p, of, bias16, limits);
    } else if (tile.filters == G * kLanes) {
        write_sums<TernaryX, G>(tile, p, of, bias16, limits);
    } else {
        alignas(32) int32_t counts[G * kLanes];
        std::fill_n(counts, G * kLanes, -bias);
        widen<G>(of, counts);
        finish(tile, p, counts, G * kLanes);
    }
}

// Of pixels [first, last).
template <bool TernaryX, int G>
void write(const ProductTile &tile, const Halves *halves, int64_t first, int64_t last) {
    constexpr int kRegisters = (G + 1) / 2 * 2;
    Limits<G> limits;
    for (int64_t p = first; p < last; ++p)
        write_pixel<TernaryX, G>(tile, p, reinterpret_cast<const Halves(&)[G]>(halves[kRegisters * p]), limits);
}

// 16 rows of 16 numbers of 16 bits, transposed: from(i) is the address of a row, to(j) that of a column.
template <typename From, typename To>
HYPERSIGN_INLINE void transpose(From &&from, To &&to) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
        __m256i rows[8], next[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
            auto at = [&](int row) { return reinterpret_cast<const __m128i *>(from(row)) + half; };
            rows[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_load_si128(at(i))),
                                              _mm_load_si128(at(i + 8)), 1);
        }
#pragma GCC unroll 3
        for (int stage = 0; stage < 3; ++stage) {
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                next[2 * i] = _mm256_unpacklo_epi16(rows[i], rows[i + 4]);
                next[2 * i + 1] = _mm256_unpackhi_epi16(rows[i], rows[i + 4]);
            }
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) rows[i] = next[i];
        }
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) _mm256_store_si256(to(8 * half + j), rows[j]);
    }
}

// Of all pixels, and G registers of filters from `first` on, whose counts are a row each.
template <bool TernaryX, int G>
void write_transposed(const ProductTile &whole, Room &room, int64_t first) {
    for (int g = 0; g < G; ++g)
        for (int odd_filter = 0; odd_filter < 2; ++odd_filter)
            for (int part = 0; part < kTransposedPixels / kLanes; ++part)
                for (int odd_pixel = 0; odd_pixel < 2; ++odd_pixel)
                    transpose(
                        [&](int i) {
                            const Halves &row = room.halves[2 * (first + g * kLanes + 2 * i + odd_filter) + part];
                            return odd_pixel ? &row.odd : &row.even;
                        },
                        [&](int j) {
                            Halves &to = room.transposed[part * kLanes + 2 * j + odd_pixel][g];
                            return odd_filter ? &to.odd : &to.even;
                        });
    ProductTile tile = whole;
    tile.first_filter += first;
    tile.flip += first / 16;
    tile.filters = static_cast<int>(std::min<int64_t>(G * kLanes, whole.filters - first));
    if (tile.levels)
        tile.levels += first / 16;
    else
        tile.sums += first;
    Limits<G> limits;
    for (int64_t p = 0; p < tile.pixels; ++p)
        write_pixel<TernaryX, G>(tile, p, reinterpret_cast<const Halves(&)[G]>(room.transposed[p]), limits);
}

template <bool TernaryX, bool TernaryW, int G, bool Transposed>
void sweep_of(const ProductSweep &work, Room &room) {
    using N = Numbers<TernaryX, Transposed>;
    constexpr int H = (G + 1) / 2;
    constexpr int64_t kNear = Transposed ? 4 * kLanes : 64;  // rows whose counts are in the cache when they are written
    const ProductTile &tile = work.tile;
    const N numbers(tile.words);
    auto size = [&](int64_t slice) { return static_cast<int>(numbers.first(slice + 1) - numbers.first(slice)); };
    int in_bytes = 0;  // numbers
    Sweep sweep{};
    sweep.first_round = true;
    for (int64_t tap = 0; tap < tile.taps; ++tap)
        for (int64_t slice = 0; slice < numbers.slices; ++slice) {
            sweep.numbers = size(slice);
            sweep.places = work.places + slice * work.slice + work.taps[tap];
            for (int i = 0; i < sweep.numbers; ++i)
                tabulate<TernaryX, TernaryW, G>(static_cast<const __m256i *>(work.block), tile.words, tap,
                                                (numbers.first(slice) + i) * N::kLevels,
                                                room.tables + i * kRows * H * kHalf);
            const bool end = slice + 1 == numbers.slices, last = end && tap + 1 == tile.taps;
            sweep.first = in_bytes == 0;
            in_bytes += sweep.numbers;
            sweep.last = last || in_bytes + size(end ? 0 : slice + 1) > N::kRoom;
            sweep.to = last && tile.sums && !Transposed ? &tile : nullptr;
            const int64_t part = last ? kNear : work.rows;
            for (sweep.row = 0; sweep.row < work.rows; sweep.row += part) {
                sweep.rows = std::min(part, work.rows - sweep.row);
                count_numbers<H, N::kUnit, N::kSweep>(work, sweep, room);
                if (!last) continue;
                const int64_t until = sweep.row + sweep.rows;
                if constexpr (Transposed) {
                    int64_t filter = sweep.row;
                    for (; filter + 4 * kLanes <= until; filter += 4 * kLanes)
                        write_transposed<TernaryX, 4>(tile, room, filter);
                    for (; filter < until; filter += kLanes) write_transposed<TernaryX, 1>(tile, room, filter);
                } else {
                    write<TernaryX, G>(tile, room.halves, sweep.row, until);
                }
            }
            if (sweep.last) {
                in_bytes = 0;
                sweep.first_round = false;
            }
        }
}

template <bool TernaryX, bool TernaryW>
void blocks(const ProductSweep &work, Room &room) {
    const int registers = work.tile.registers;
    registers == 1   ? sweep_of<TernaryX, TernaryW, 1, false>(work, room)
    : registers == 2 ? sweep_of<TernaryX, TernaryW, 2, false>(work, room)
                     : sweep_of<TernaryX, TernaryW, 4, false>(work, room);
}

Room &own_room() {
    thread_local std::unique_ptr<Room> room;
    if (!room) room.reset(new Room);
    return *room;
}

void run(const ProductSweep &work) {
    Room &room = own_room();
    if (work.tile.ternary_x)
        work.tile.ternary_w ? blocks<true, true>(work, room) : blocks<true, false>(work, room);
    else
        work.tile.ternary_w ? blocks<false, true>(work, room) : blocks<false, false>(work, room);
}

void run_transposed(const ProductSweep &work) {
    work.tile.ternary_x ? sweep_of<true, true, 2, true>(work, own_room())
                        : sweep_of<false, false, 2, true>(work, own_room());
}

// As measured.
bool better_transposed(int64_t pixels, int64_t levels, int64_t filters) {
    return levels < 1 << 15 && pixels <= kTransposedPixels && pixels >= 58 && filters >= 384;
}

template <bool Ternary>
void number_filters(const ProductNumbers &to) {
    using N = Numbers<Ternary, true>;
    constexpr uint8_t kBase3[8] = {0, 1, 3, 4, 9, 10, 12, 13};  // as in `number`
    const N numbers(to.words);
    const int64_t bytes = 4 * to.words;
    std::vector<uint8_t> sign(bytes + 2), nonzero(bytes + 2);  // a tap of a filter, and zeros
    auto cut = [](const std::vector<uint8_t> &from, int64_t bit) {
        return (from[bit / 8] | from[bit / 8 + 1] << 8) >> bit % 8 & ((1 << N::kLevels) - 1);
    };
    for (int64_t tap = 0; tap < to.taps; ++tap)
        for (int64_t filter = 0; filter < to.filters; ++filter) {
            auto block = static_cast<const uint8_t *>(to.block) + tap * bytes * (Ternary ? 2 : 1) * to.filters + filter;
            for (int64_t i = 0; i < bytes; ++i) {  // the inverse of `arrange`
                if (!Ternary) {
                    sign[i] = block[i * to.filters];
                    continue;
                }
                const int first = block[2 * i * to.filters], second = block[(2 * i + 1) * to.filters];
                sign[i] = static_cast<uint8_t>((first & 0x33) | (second & 0x33) << 2);
                nonzero[i] = static_cast<uint8_t>((first >> 2 & 0x33) | (second & 0xcc));
            }
            for (int64_t slice = 0; slice < numbers.slices; ++slice) {
                uint8_t *places = to.places + slice * to.slice + tap * to.tap + filter * kTransposedSlot;
                std::fill_n(places, kTransposedSlot, uint8_t{0});
                for (int64_t n = numbers.first(slice); n < numbers.first(slice + 1); ++n) {
                    const int s = cut(sign, n * N::kLevels), z = cut(nonzero, n * N::kLevels);
                    *places++ = static_cast<uint8_t>(8 * (Ternary ? kBase3[z & 7] + kBase3[s & z & 7] : s));
                }
            }
        }
}

void number_filters(const ProductNumbers &to) {
    to.ternary ? number_filters<true>(to) : number_filters<false>(to);
}

}  // namespace

const ProductSweeps sweeps_avx2{kSlot,           better,            slices<false>, number,         run,
                                kTransposedSlot, better_transposed, slices<true>,  number_filters, run_transposed};

}  // namespace hypersign
