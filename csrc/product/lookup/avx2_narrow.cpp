// Lookup-table passes with AVX2 where channels and filters are few: up to 35 binary levels per tap and one register of
// filters, as in the first layers of narrow residual networks. product/lookup/avx2.cpp explains passes.
//
// With at most 32 filters an entry needs no 4 bits: it has a byte per filter, and a pixel adds entries without anything
// in between. 5 levels and 32 filters are one load with its addition, so 320 multiply-accumulates per cycle where a
// core loads two vectors per cycle. Up to 16 filters have entries of 16 bytes; then a 3 x 3 filter of 16 channels has
// its 36 tables in the L1 cache, 18 KiB, and one pass does all.
//
// A pass covers as many taps as fit the tables. Between passes counts wait in 16 bits; after the last one they go
// straight into the epilogue.
#include "product/lookup/avx2.hpp"

#include <memory>

namespace hypersign {
namespace {

using N = Indices<false, false>;
constexpr int kMaxIndices = 7;  // of a tap

// A thread's counts and tables.
struct Workspace {
    alignas(64) uint8_t tables[kTables];
    alignas(64) Counts16 counts16[kMaxRun];
};

template <int Bytes>
struct Entry {
    using Vector = __m256i;
};
template <>
struct Entry<16> {
    using Vector = __m128i;
};

// A pass: all pixels and taps [first_tap, last_tap).
struct Pass {
    int64_t first_tap, last_tap;
    bool first, last;
};

// Adds the entry at `index` of table I, of `Bytes` bytes. The address is written as instructions have it.
template <int Bytes, int I, typename Vector>
HYPERSIGN_INLINE void add_entry(const uint8_t *tables, int64_t index, Vector &sum) {
    auto &all = *reinterpret_cast<const uint8_t(*)[kTables]>(tables);
    __asm__("vpaddb %c3(%1,%2,%c4), %0, %0"
            : "+x"(sum)
            : "r"(tables), "r"(index), "i"(I * kEntries * Bytes), "i"(Bytes / 8), "m"(all));
}

// Adds the entries of a tap, alternately to two sums, so that no addition waits for the one before.
template <int Bytes, int Count, int I = 0, typename Vector>
HYPERSIGN_INLINE void add_entries(const uint8_t *tables, IndexReader &indices, Vector &even, Vector &odd) {
    if constexpr (I < Count) {
        add_entry<Bytes, I>(tables, indices.next<I>(), I % 2 ? odd : even);
        add_entries<Bytes, Count, I + 1>(tables, indices, even, odd);
    }
}

template <int Bytes, int Count>
HYPERSIGN_INLINE __m256i count_pixel(const uint8_t *indices, const int64_t *tap, const int64_t *last_tap,
                                     const uint8_t *tables) {
    typename Entry<Bytes>::Vector even{}, odd{};
    for (; tap < last_tap; ++tap, tables += Count * kEntries * Bytes) {
        IndexReader reader{indices + *tap, 0};
        add_entries<Bytes, Count>(tables, reader, even, odd);
    }
    if constexpr (Bytes == 16)
        return _mm256_castsi128_si256(_mm_add_epi8(even, odd));
    else
        return _mm256_add_epi8(even, odd);
}

template <int Bytes, int Count>
__attribute__((noinline)) void count(const LookupTask &work, const Pass &pass, Workspace &workspace) {
    const ProductTile &tile = work.tile;
    const int64_t *const taps = work.tap_offsets + pass.first_tap, *const last_tap = work.tap_offsets + pass.last_tap;
    const __m256i low = _mm256_set1_epi16(255);
    Thresholds16<1> thresholds;
    for (int64_t p = 0; p < work.rows; ++p) {
        const __m256i bytes =
            count_pixel<Bytes, Count>(work.indices + work.row_offsets[p], taps, last_tap, workspace.tables);
        const __m256i even = _mm256_and_si256(bytes, low), odd = _mm256_srli_epi16(bytes, 8);
        Counts16 &waiting = workspace.counts16[p];
        Counts16 of[1];
        if (pass.first)
            of[0] = {even, odd};
        else
            of[0] = {_mm256_add_epi16(waiting.even, even), _mm256_add_epi16(waiting.odd, odd)};
        if (pass.last)
            epilogue_pixel<false, 1>(tile, p, of, thresholds);
        else
            waiting = of[0];
    }
}

template <int Bytes, int Count = kMaxIndices>
void count_indices(int64_t indices, const LookupTask &work, const Pass &pass, Workspace &workspace) {
    if constexpr (Count > 1)
        if (indices < Count) return count_indices<Bytes, Count - 1>(indices, work, pass, workspace);
    count<Bytes, Count>(work, pass, workspace);
}

template <int Bytes, bool TernaryW>
void run_passes(const LookupTask &work, Workspace &workspace) {
    const ProductTile &tile = work.tile;
    const int64_t indices = N(tile.depth).count;
    const int64_t most = std::min(kTables / (kEntries * Bytes), N::kByteCapacity) / indices;  // taps of a pass
    const int64_t passes = ceil_div(tile.taps, most);
    for (int64_t i = 0; i < passes; ++i) {
        const Pass pass{i * tile.taps / passes, (i + 1) * tile.taps / passes, i == 0, i + 1 == passes};
        uint8_t *table = workspace.tables;
        for (int64_t tap = pass.first_tap; tap < pass.last_tap; ++tap)
            for (int64_t index = 0; index < indices; ++index, table += kEntries * Bytes)
                tabulate<false, TernaryW, 1, Bytes>(tile, work.block, tap, index * N::kLevels, table);
        count_indices<Bytes>(indices, work, pass, workspace);
    }
}

}  // namespace

bool is_narrow(const ProductTile &tile) {
    return tile.registers == 1 && !tile.ternary_x && tile.depth <= kMaxIndices * N::kLevels;
}

void run_narrow(const LookupTask &work) {
    thread_local std::unique_ptr<Workspace> workspace;
    if (!workspace) workspace.reset(new Workspace);
    if (work.tile.filters <= 16)
        work.tile.ternary_w ? run_passes<16, true>(work, *workspace) : run_passes<16, false>(work, *workspace);
    else
        work.tile.ternary_w ? run_passes<32, true>(work, *workspace) : run_passes<32, false>(work, *workspace);
}

}  // namespace hypersign
