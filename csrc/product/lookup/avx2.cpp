// Lookup-table passes with AVX2. product/lookup/lookup.hpp explains the method.
//
// 5 levels of a pixel are one of 32 LUT indices, and against the levels of each index 128 filters count 0 to 5
// disagreements. Those 32 times 128 counts, 4 bits each, are a table of 2 KiB, of which a pixel adds one entry: two
// registers. Three entries fill 4 bits; then the counts are added to bytes (product/avx2.hpp), which hold 51 entries.
//
// 15 levels of a pixel and 128 filters are 6 loads of 32 bytes and 10 additions and shifts: 3 cycles where a core
// loads two vectors per cycle, as Zen does (Intel loads two or three). That is 640 multiply-accumulates per cycle;
// the kernel that counts each product (product/avx2.cpp) does 384 at most. Loading each index separately would be a
// third load per entry, which Zen cannot afford; so eight indices are one load, and shifts separate them. Tables must
// be in the L1 cache, so a pass has up to 15 indices, 30 KiB of tables. Between passes the byte accumulators wait in
// the L2 cache: 4 loads and 4 stores, 4 cycles on Zen, beside 15. Filling the tables takes 64 stores per index, 960
// cycles per pass.
//
// Measured on Zen 3, passes are faster than tiles from 224 pixels on. For blocks of 64 or 32 filters, where tiles
// load as much as for 128, they are faster from 24 pixels on.
//
// For few pixels and many filters the roles change: the tables are of 64 pixels, and filters look up. The indices of
// filters do not change, so they are written once. An entry is half as long, so a pass has up to 30 indices. From 384
// filters on this is the faster method for 58 to 64 pixels: one image of 8 x 8, or the rows of a batch.
//
// For ternary inputs, 3 levels are one of 27 indices, in base 3. A level adds 1 + its disagreement - its agreement,
// up to 6 for three levels, so two entries fill 4 bits, and ternary inputs take some 1.7 times as long. Whether
// filters are binary or ternary matters only for filling the tables.
//
// Instructions: Intel Intrinsics Guide; ports: uops.info, tables of VPADDB and VMOVDQA (YMM, M256).
#include <memory>
#include <vector>

#include "product/lookup/avx2.hpp"

namespace hypersign {
namespace {

constexpr int kFilterIndexBytes = 32;  // of a filter in a slice

// How to cut out 16 neighbouring indices, which begin at a given bit of a byte.
template <int Levels>
struct Cut {
    alignas(32) uint8_t bytes[8][32];
    alignas(32) uint16_t up[8][16];  // factors that move an index to the top of 16 bits

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

// Cuts indices out of the words of pixels, from bit `first` of `bytes` bytes on. Bits past the end may be anything:
// tables have the same entries for all of them.
template <int Levels>
class IndexCutter {
   public:
    IndexCutter(const Cut<Levels> &cut, int64_t first, int64_t bytes) {
        from_ = first / 8;
        left_ = bytes - from_;
        windows_ = _mm256_load_si256(reinterpret_cast<const __m256i *>(cut.bytes[first % 8]));
        up_ = _mm256_load_si256(reinterpret_cast<const __m256i *>(cut.up[first % 8]));
        // One load of 8 or 16 bytes: where fewer are left, of those that end with them.
        const int64_t size = left_ > 8 ? 16 : 8;
        if (left_ < size && bytes >= size) {
            windows_ = _mm256_add_epi8(windows_, _mm256_set1_epi8(static_cast<char>(size - left_)));
            from_ = bytes - size;
            left_ = size;
        }
    }
    HYPERSIGN_INLINE __m256i operator()(const uint32_t *words) const {
        const uint8_t *from = reinterpret_cast<const uint8_t *>(words) + from_;
        __m128i bits;
        if (left_ >= 16) {
            bits = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
        } else if (left_ == 8) {  // one instruction for the usual sizes of few channels
            bits = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(from));
        } else if (left_ == 4) {
            int32_t word;
            std::memcpy(&word, from, sizeof word);
            bits = _mm_cvtsi32_si128(word);
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

// As measured. For 64 filters and fewer, tiles load too much for what they count.
bool faster(int64_t pixels, int64_t levels, int registers) {
    return levels < 1 << 15 && pixels >= (registers > 2 ? 224 : 24);
}

template <bool Transposed>
int64_t slices(bool ternary, int64_t depth) {
    return ternary ? Indices<true, Transposed>(depth).slices : Indices<false, Transposed>(depth).slices;
}

// Calls cut() for one pixel after another, and stores the indices that it returns, those of two pixels together. They
// are stored times 8, which is the scale of addresses in `add_entry`.
template <typename Cut>
HYPERSIGN_INLINE void store_indices(int64_t pixels, uint8_t *indices, Cut &&cut) {
    int64_t p = 0;
    for (; p + 2 <= pixels; p += 2, indices += 2 * kIndexBytes) {
        const __m256i first = cut(), both = _mm256_packus_epi16(first, cut());
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(indices),
                            _mm256_slli_epi16(_mm256_permute4x64_epi64(both, 0xd8), 3));
    }
    if (p < pixels) {
        const __m256i last = cut(), both = _mm256_packus_epi16(last, last);
        _mm_storeu_si128(reinterpret_cast<__m128i *>(indices),
                         _mm256_castsi256_si128(_mm256_slli_epi16(_mm256_permute4x64_epi64(both, 0xd8), 3)));
    }
}

void write_indices(const uint32_t *sign, const uint32_t *nonzero, int64_t depth, int64_t pixels, int64_t stride,
                   int64_t slice, uint8_t *indices) {
    const int64_t bytes = 4 * ceil_div(depth, 32);
    if (nonzero) {
        // In base 3, as sums of the digits 1 of non-zeros and of signs: 0 for 0, 1 for +1, 2 for -1.
        const __m256i base3 =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 3, 4, 9, 10, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0));
        const IndexCutter<3> cut(kThrees, 3 * Indices<true, false>(depth).first(slice), bytes);
        store_indices(pixels, indices, [&] {
            const __m256i n = cut(nonzero), s = _mm256_and_si256(cut(sign), n);
            sign += stride;
            nonzero += stride;
            return _mm256_add_epi16(_mm256_shuffle_epi8(base3, n), _mm256_shuffle_epi8(base3, s));
        });
    } else {
        const IndexCutter<5> cut(kFives, 5 * Indices<false, false>(depth).first(slice), bytes);
        store_indices(pixels, indices, [&] {
            const __m256i indices_of_pixel = cut(sign);
            sign += stride;
            return indices_of_pixel;
        });
    }
}

// A pass: the indices of one slice of a tap, for all rows.
struct Pass {
    int count;               // of indices
    const uint8_t *indices;  // of the first input pixel, or filter
    bool first, last;        // of a round, after which byte accumulators go into 16 bits
    bool first_round;
    const ProductTile *to;   // sums that the epilogue writes next
    int64_t row, rows;       // the first, and how many
};

// A thread's counts.
struct Workspace {
    alignas(64) uint8_t tables[kTables];
    alignas(64) __m256i bytes[kMaxRun * 4];
    alignas(64) Counts16 counts16[kMaxRun * 4];
    alignas(64) Counts16 transposed[kLookupPixels][4];  // of 128 filters
};

// Adds half h of the entry at `index` of table I, of H halves. The address is written as instructions have it: the
// compiler would compute it separately.
template <int H, int I, int h, bool First>
HYPERSIGN_INLINE void add_entry(const uint8_t *tables, int64_t index, __m256i &t) {
    auto &all = *reinterpret_cast<const uint8_t(*)[kTables]>(tables);
    constexpr int kAt = (I * kEntries * H + h) * kHalf, kScale = kHalf / 8 * H;
    if (First)
        __asm__("vmovdqa %c3(%1,%2,%c4), %0" : "=x"(t) : "r"(tables), "r"(index), "i"(kAt), "i"(kScale), "m"(all));
    else
        __asm__("vpaddb %c3(%1,%2,%c4), %0, %0" : "+x"(t) : "r"(tables), "r"(index), "i"(kAt), "i"(kScale), "m"(all));
}

// Adds the entries of indices I to Count - 1; 4 bits hold `Unit` of them.
template <int H, int Unit, int Count, int I = 0>
HYPERSIGN_INLINE void add_entries(const uint8_t *tables, IndexReader &indices, __m256i (&t)[H],
                                  Accumulators<H> &accumulators) {
    if constexpr (I < Count) {
        const int64_t index = indices.next<I>();
        add_entry<H, I, 0, I % Unit == 0>(tables, index, t[0]);
        if constexpr (H > 1) add_entry<H, I, 1, I % Unit == 0>(tables, index, t[1]);
        if constexpr (I % Unit == Unit - 1 || I == Count - 1)
            accumulators.add([&](int h) __attribute__((always_inline)) { return t[h]; });
        add_entries<H, Unit, Count, I + 1>(tables, indices, t, accumulators);
    }
}

template <int H, int Unit, int Count>
__attribute__((noinline)) void count(const LookupTask &work, const Pass &pass, Workspace &workspace) {
    // Everything that the loop reads stays in registers, because loads are its bottleneck.
    const uint8_t *const tables = workspace.tables;
    const int64_t *at = work.row_offsets + pass.row, *const end = at + pass.rows;
    const uint8_t *const first_indices = pass.indices;
    const bool first = pass.first, last = pass.last, first_round = pass.first_round;
    const ProductTile *const to = pass.to;
    int32_t *out = to ? to->sums + pass.row * to->sums_stride : nullptr;
    __m256i *bytes = workspace.bytes + 2 * H * pass.row;
    Counts16 *counts16 = workspace.counts16 + 2 * H * pass.row;
    const uint8_t *next = first_indices + *at;
    while (at < end) {
        IndexReader indices{next, 0};
        next = first_indices + *++at;  // early: the loads from there wait for it
        Accumulators<H> accumulators;
        __m256i t[H];
        add_entries<H, Unit, Count>(tables, indices, t, accumulators);
        if (!first) accumulators.add_stored(bytes);
        if (!last)
            accumulators.store(bytes);
        else if (first_round)
            separate<true>(accumulators, counts16, counts16 + 1, 2);
        else
            separate<false>(accumulators, counts16, counts16 + 1, 2);
        bytes += 2 * H;
        counts16 += 2 * H;
        if (to) {  // so that the cache fetches their lines meanwhile
            for (int i = 0; i < to->filters; i += 16) _mm_prefetch(out + i, _MM_HINT_T1);
            out += to->sums_stride;
        }
    }
}

template <int H, int Unit, int Count>
void count_indices(const LookupTask &work, const Pass &pass, Workspace &workspace) {
    if constexpr (Count > 1)
        if (pass.count < Count) return count_indices<H, Unit, Count - 1>(work, pass, workspace);
    count<H, Unit, Count>(work, pass, workspace);
}

// Epilogue of pixels [first, last).
template <bool TernaryX, int G>
void epilogue(const ProductTile &tile, const Counts16 *counts16, int64_t first, int64_t last) {
    constexpr int kRegisters = (G + 1) / 2 * 2;
    Thresholds16<G> thresholds;
    for (int64_t p = first; p < last; ++p)
        epilogue_pixel<TernaryX, G>(tile, p, reinterpret_cast<const Counts16(&)[G]>(counts16[kRegisters * p]),
                                    thresholds);
}

// Transposes 16 rows of 16 numbers of 16 bits: from(i) is the address of a row, to(j) that of a column.
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

// Epilogue of all pixels and G registers of filters from `first` on; the counts of a filter are a row.
template <bool TernaryX, int G>
void epilogue_transposed(const ProductTile &whole, Workspace &workspace, int64_t first) {
    for (int g = 0; g < G; ++g)
        for (int odd_filter = 0; odd_filter < 2; ++odd_filter)
            for (int part = 0; part < kLookupPixels / kLanes; ++part)
                for (int odd_pixel = 0; odd_pixel < 2; ++odd_pixel)
                    transpose(
                        [&](int i) {
                            const Counts16 &row = workspace.counts16[2 * (first + g * kLanes + 2 * i + odd_filter) + part];
                            return odd_pixel ? &row.odd : &row.even;
                        },
                        [&](int j) {
                            Counts16 &to = workspace.transposed[part * kLanes + 2 * j + odd_pixel][g];
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
    Thresholds16<G> thresholds;
    for (int64_t p = 0; p < tile.pixels; ++p)
        epilogue_pixel<TernaryX, G>(tile, p, reinterpret_cast<const Counts16(&)[G]>(workspace.transposed[p]),
                                    thresholds);
}

template <bool TernaryX, bool TernaryW, int G, bool Transposed>
void run_passes(const LookupTask &work, Workspace &workspace) {
    using N = Indices<TernaryX, Transposed>;
    constexpr int H = (G + 1) / 2;
    constexpr int64_t kRowsInCache = Transposed ? 4 * kLanes : 64;  // their counts are still in the cache in the epilogue
    const ProductTile &tile = work.tile;
    const N layout(tile.depth);
    auto size = [&](int64_t slice) { return static_cast<int>(layout.first(slice + 1) - layout.first(slice)); };
    int in_bytes = 0;  // entries
    Pass pass{};
    pass.first_round = true;
    for (int64_t tap = 0; tap < tile.taps; ++tap)
        for (int64_t slice = 0; slice < layout.slices; ++slice) {
            pass.count = size(slice);
            pass.indices = work.indices + slice * work.slice_stride + work.tap_offsets[tap];
            for (int i = 0; i < pass.count; ++i)
                tabulate<TernaryX, TernaryW, G>(tile, work.block, tap, (layout.first(slice) + i) * N::kLevels,
                                                workspace.tables + i * kEntries * H * kHalf);
            const bool end = slice + 1 == layout.slices, last = end && tap + 1 == tile.taps;
            pass.first = in_bytes == 0;
            in_bytes += pass.count;
            pass.last = last || in_bytes + size(end ? 0 : slice + 1) > N::kByteCapacity;
            pass.to = last && tile.sums && !Transposed ? &tile : nullptr;
            const int64_t part = last ? kRowsInCache : work.rows;
            for (pass.row = 0; pass.row < work.rows; pass.row += part) {
                pass.rows = std::min(part, work.rows - pass.row);
                count_indices<H, N::kUnit, N::kPassIndices>(work, pass, workspace);
                if (!last) continue;
                const int64_t until = pass.row + pass.rows;
                if constexpr (Transposed) {
                    int64_t filter = pass.row;
                    for (; filter + 4 * kLanes <= until; filter += 4 * kLanes)
                        epilogue_transposed<TernaryX, 4>(tile, workspace, filter);
                    for (; filter < until; filter += kLanes) epilogue_transposed<TernaryX, 1>(tile, workspace, filter);
                } else {
                    epilogue<TernaryX, G>(tile, workspace.counts16, pass.row, until);
                }
            }
            if (pass.last) {
                in_bytes = 0;
                pass.first_round = false;
            }
        }
}

template <bool TernaryX, bool TernaryW>
void for_registers(const LookupTask &work, Workspace &workspace) {
    const int registers = work.tile.registers;
    registers == 1   ? run_passes<TernaryX, TernaryW, 1, false>(work, workspace)
    : registers == 2 ? run_passes<TernaryX, TernaryW, 2, false>(work, workspace)
                     : run_passes<TernaryX, TernaryW, 4, false>(work, workspace);
}

Workspace &thread_workspace() {
    thread_local std::unique_ptr<Workspace> workspace;
    if (!workspace) workspace.reset(new Workspace);
    return *workspace;
}

void run(const LookupTask &work) {
    if (is_narrow(work.tile)) return run_narrow(work);
    Workspace &workspace = thread_workspace();
    if (work.tile.ternary_x)
        work.tile.ternary_w ? for_registers<true, true>(work, workspace) : for_registers<true, false>(work, workspace);
    else
        work.tile.ternary_w ? for_registers<false, true>(work, workspace)
                            : for_registers<false, false>(work, workspace);
}

void run_filters(const LookupTask &work) {
    work.tile.ternary_x ? run_passes<true, true, 2, true>(work, thread_workspace())
                        : run_passes<false, false, 2, true>(work, thread_workspace());
}

// As measured.
bool filters_faster(int64_t pixels, int64_t levels, int64_t filters) {
    return levels < 1 << 15 && pixels <= kLookupPixels && pixels >= 58 && filters >= 384;
}

template <bool Ternary>
void write_filter_indices(const FilterIndices &to) {
    using N = Indices<Ternary, true>;
    constexpr uint8_t kBase3[8] = {0, 1, 3, 4, 9, 10, 12, 13};  // as in `write_indices`
    const N layout(to.depth);
    const int64_t bytes = 4 * to.words;
    std::vector<uint8_t> sign(bytes + 2), nonzero(bytes + 2);  // a tap of a filter, then zeros
    auto cut = [](const std::vector<uint8_t> &from, int64_t bit) {
        return (from[bit / 8] | from[bit / 8 + 1] << 8) >> bit % 8 & ((1 << N::kLevels) - 1);
    };
    for (int64_t tap = 0; tap < to.taps; ++tap)
        for (int64_t filter = 0; filter < to.filters; ++filter) {
            auto block = static_cast<const uint8_t *>(to.block) + tap * bytes * (Ternary ? 2 : 1) * to.filters + filter;
            for (int64_t i = 0; i < bytes; ++i) {  // undoes `pack_weights`
                if (!Ternary) {
                    sign[i] = block[i * to.filters];
                    continue;
                }
                const int first = block[2 * i * to.filters], second = block[(2 * i + 1) * to.filters];
                sign[i] = static_cast<uint8_t>((first & 0x33) | (second & 0x33) << 2);
                nonzero[i] = static_cast<uint8_t>((first >> 2 & 0x33) | (second & 0xcc));
            }
            for (int64_t slice = 0; slice < layout.slices; ++slice) {
                uint8_t *indices =
                    to.indices + slice * to.slice_stride + tap * to.tap_stride + filter * kFilterIndexBytes;
                std::fill_n(indices, kFilterIndexBytes, uint8_t{0});
                for (int64_t n = layout.first(slice); n < layout.first(slice + 1); ++n) {
                    const int s = cut(sign, n * N::kLevels), z = cut(nonzero, n * N::kLevels);
                    *indices++ = static_cast<uint8_t>(8 * (Ternary ? kBase3[z & 7] + kBase3[s & z & 7] : s));
                }
            }
        }
}

void write_filter_indices(const FilterIndices &to) {
    to.ternary ? write_filter_indices<true>(to) : write_filter_indices<false>(to);
}

}  // namespace

const LookupKernels lookup_avx2{kIndexBytes,       faster,         slices<false>, write_indices,        run,
                                kFilterIndexBytes, filters_faster, slices<true>,  write_filter_indices, run_filters};

}  // namespace hypersign
