// Bit-sliced counting with AVX-512. product/sliced/sliced.hpp explains the method.
//
// A full adder is two ternary logic operations, on ports 0 and 5 of Intel's cores: one cycle for two levels of 512
// filters, 1024 multiply-accumulates, where counting takes three cycles (product/avx512.cpp). Beside it a step loads its
// index and its entry. (256 filters are no faster than by counting: registers of 256 bits take as long, and two chunks
// in one register are joined by a third operation.)
//
// The digits of a pixel wait in memory between two chunks. Those of the lowest five weights are read and written by every
// chunk, which adds up its 32 carries as a tree: two registers of one weight make one of the next. What leaves the tree
// has weight 64. From there on, every other register waits for its partner, as in a binary counter; all pixels have
// theirs waiting at the same weights.
//
// Instructions: Intel Intrinsics Guide; ports: uops.info, table of VPTERNLOGD.

#include "avx512.hpp"

#include <algorithm>
#include <cstring>
#include <memory>

#include "inline.hpp"
#include "product/sliced/sliced.hpp"

namespace hypersign {
namespace {

constexpr int kSteps = kSlicedLevels / 2;
constexpr int kTree = 5;    // weights that the tree adds up: 2, 4, .. 32
constexpr int kUpper = 9;   // weights that wait for a partner, at most: 64, 128, ..
constexpr int kPixelsOfTile = 32;
constexpr int kBytes = 64;  // of a register

// Functions of three bits, by the value at 4 a + 2 b + c.
constexpr int kSum = 0x96, kMajority = 0xe8;

template <int F>
HYPERSIGN_INLINE __m512i logic(__m512i a, __m512i b, __m512i c) {
    return _mm512_ternarylogic_epi32(a, b, c, F);
}

// Adds b and c to the digit a; returns the carry. The carry is b where b = c, and elsewhere the opposite of the new digit,
// so no register is copied.
HYPERSIGN_INLINE __m512i add(__m512i &a, __m512i b, __m512i c) {
    a = logic<kSum>(a, b, c);
    return logic<0xb2>(b, a, c);
}

// The tables of a chunk, and what each pixel looks up.
struct Tables {
    alignas(64) uint8_t entries[kSteps * 8 * kBytes];     // [step][run + 2 b + 4 c]
    alignas(64) uint8_t indices[kPixelsOfTile * kSteps];  // [pixel][step], times 8
};

// Two words at a time. A step's levels are 32 apart.
void write_indices(const uint32_t *input, int64_t words, SlicedIndices *indices, uint8_t *odd) {
    for (int64_t word = 0; word < words; word += 2) {
        const int64_t count = std::min<int64_t>(2, words - word);
        uint64_t run = 0, b = 0, c = 0;
        for (int64_t i = 0; i < count; ++i) {
            const uint32_t low = input[2 * (word + i)], high = input[2 * (word + i) + 1];
            uint32_t all = low ^ high;  // up to each step
            all ^= all << 1;
            all ^= all << 2;
            all ^= all << 4;
            all ^= all << 8;
            all ^= all << 16;
            odd[word + i] = static_cast<uint8_t>(all >> 31);
            run |= static_cast<uint64_t>(all << 1) << 32 * i;
            b |= static_cast<uint64_t>(low) << 32 * i;
            c |= static_cast<uint64_t>(high) << 32 * i;
        }
        const __m512i both = _mm512_or_si512(
            _mm512_or_si512(_mm512_maskz_set1_epi8(run, 8), _mm512_maskz_set1_epi8(b, 16)),
            _mm512_maskz_set1_epi8(c, 32));
        _mm256_store_si256(reinterpret_cast<__m256i *>(indices + word), _mm512_castsi512_si256(both));
        if (count > 1)
            _mm256_store_si256(reinterpret_cast<__m256i *>(indices + word + 1), _mm512_extracti64x4_epi64(both, 1));
    }
}

// Copies the indices of a word of each pixel; where the levels before the word are odd, `run` is the other value.
HYPERSIGN_INLINE void take_indices(const SlicedTask &task, int64_t tap, int64_t word, uint8_t *runs, uint8_t *indices) {
    const uint32_t *const *x = task.tile.x + tap * kPixels;
    const int64_t first = task.tile.first_word / 2 + word;
    for (int64_t p = 0; p < task.tile.pixels; ++p, indices += kSteps) {
        const int64_t at = (reinterpret_cast<intptr_t>(x[p]) - reinterpret_cast<intptr_t>(task.input)) / 8 + first;
        const __m256i flip = _mm256_set1_epi8(static_cast<char>(8 * runs[p]));
        auto to = reinterpret_cast<__m256i *>(indices);
        if (at < 0 || at >= task.input_words) {  // a padded pixel: all levels are +1
            _mm256_store_si256(to, flip);
            continue;
        }
        _mm256_store_si256(
            to, _mm256_xor_si256(flip, _mm256_load_si256(reinterpret_cast<const __m256i *>(task.indices + at))));
        runs[p] ^= task.odd[at];
    }
}

HYPERSIGN_INLINE __m512i load(const uint8_t *from) { return _mm512_load_si512(from); }
HYPERSIGN_INLINE void store(uint8_t *to, __m512i v) { _mm512_store_si512(to, v); }

// Makes the tables of 64 levels; returns the filters' digit after them, where `run` is that before them.
HYPERSIGN_INLINE __m512i tabulate(const uint8_t *planes, __m512i run, uint8_t *entries) {
    for (int step = 0; step < kSteps; ++step, entries += 8 * kBytes) {
        const __m512i b = load(planes + step * kBytes), c = load(planes + (kSteps + step) * kBytes);
        store(entries, logic<kMajority>(run, b, c));
        store(entries + kBytes, logic<0x8e>(run, b, c));  // majority(~run, b, c), and so on
        store(entries + 2 * kBytes, logic<0xb2>(run, b, c));
        store(entries + 3 * kBytes, logic<0x2b>(run, b, c));
        store(entries + 4 * kBytes, logic<0xd4>(run, b, c));
        store(entries + 5 * kBytes, logic<0x4d>(run, b, c));
        store(entries + 6 * kBytes, logic<0x71>(run, b, c));
        store(entries + 7 * kBytes, logic<0x17>(run, b, c));
        run = logic<kSum>(run, b, c);
    }
    return run;
}

template <int Step>
HYPERSIGN_INLINE __m512i entry(const uint8_t *entries, const uint8_t *indices) {
    return load(entries + Step * 8 * kBytes + static_cast<int64_t>(indices[Step]) * (kBytes / 8));
}

// Adds 2^(Weight + 1) carries, from `Step` on, to the digits; returns the carry.
template <int Step, int Weight>
HYPERSIGN_INLINE __m512i add_carries(const uint8_t *entries, const uint8_t *indices, __m512i (&digits)[kTree]) {
    if constexpr (Weight == 0) {
        const __m512i b = entry<Step>(entries, indices), c = entry<Step + 1>(entries, indices);
        return add(digits[0], b, c);
    } else {
        const __m512i b = add_carries<Step, Weight - 1>(entries, indices, digits);
        const __m512i c = add_carries<Step + (1 << Weight), Weight - 1>(entries, indices, digits);
        return add(digits[Weight], b, c);
    }
}

// Where the digits of a pixel lie: those of the tree, then of the upper weights, then the registers that wait.
struct Digits {
    uint8_t tree[kTree][kBytes], upper[kUpper][kBytes], waiting[kUpper][kBytes];
};

// Adds the carries of chunk number `chunk` for all pixels, while the planes at `next` come from afar.
__attribute__((noinline)) void add_chunk(const Tables &tables, int64_t pixels, int64_t chunk, const uint8_t *next,
                                         Digits *digits) {
    const uint8_t *const entries = tables.entries;
    const int64_t lines = (kSlicedLevels + pixels - 1) / pixels;  // for each pixel
    for (int64_t p = 0; p < pixels; ++p, ++digits) {
        for (int64_t i = 0; i < lines && next; ++i)
            _mm_prefetch(reinterpret_cast<const char *>(next + (p * lines + i) * kBytes), _MM_HINT_T0);
        __m512i tree[kTree];
        for (int i = 0; i < kTree; ++i) tree[i] = load(digits->tree[i]);
        __m512i carry = add_carries<0, kTree - 1>(entries, tables.indices + p * kSteps, tree);
        for (int i = 0; i < kTree; ++i) store(digits->tree[i], tree[i]);
        int weight = 0;
        for (int64_t waits = chunk; waits & 1; waits >>= 1, ++weight) {
            __m512i digit = load(digits->upper[weight]);
            carry = add(digit, load(digits->waiting[weight]), carry);
            store(digits->upper[weight], digit);
        }
        store(digits->waiting[weight], carry);
    }
}

// Transposes 8 x 8 bits in each byte: bit j of register i goes to bit i of register j.
HYPERSIGN_INLINE void transpose(__m512i (&of)[8]) {
    constexpr int kMasks[3] = {0x55555555, 0x33333333, 0x0f0f0f0f};
#pragma GCC unroll 3
    for (int stage = 0; stage < 3; ++stage) {
        const int by = 1 << stage;
        const __m512i mask = _mm512_set1_epi32(kMasks[stage]);
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
            if (i & by) continue;
            // Swaps the bits of one above the mask with those of the other in it.
            const __m512i swap = logic<0x28>(_mm512_srli_epi32(of[i], by), of[i + by], mask);  // (a ^ b) & mask
            of[i + by] = _mm512_xor_si512(of[i + by], swap);
            of[i] = _mm512_xor_si512(of[i], _mm512_slli_epi32(swap, by));
        }
    }
}

// The counts of a pixel, in bytes.
struct Counts {
    alignas(64) uint8_t low[8 * kBytes], high[8 * kBytes];

    // Of 16 filters.
    HYPERSIGN_INLINE __m512i at(int first) const {
        return _mm512_or_si512(wide(low + first), _mm512_slli_epi32(wide(high + first), 8));
    }
    static HYPERSIGN_INLINE __m512i wide(const uint8_t *bytes) {
        return _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i *>(bytes)));
    }
};

// Sums or levels of a pixel.
HYPERSIGN_INLINE void epilogue(const ProductTile &tile, int64_t p, const Counts &counts) {
    const int32_t *thresholds = tile.thresholds[p] + tile.first_filter;
    for (int first = 0; first < tile.filters; first += 16) {
        const __m512i v = counts.at(first), threshold = _mm512_loadu_si512(thresholds + first);
        if (tile.sums) {
            const int left = tile.filters - first;
            const __mmask16 mask = left >= 16 ? 0xffff : static_cast<__mmask16>((1 << left) - 1);
            _mm512_mask_storeu_epi32(tile.sums + p * tile.sums_stride + first, mask,
                                     _mm512_sub_epi32(threshold, _mm512_slli_epi32(v, 1)));
            continue;
        }
        uint16_t *out = tile.levels + p * tile.levels_stride + first / 16;
        const uint32_t minus = _mm512_cmpgt_epi32_mask(v, threshold), flip = tile.flip[first / 16];
        if (tile.levels_plane) {
            const __m512i above = _mm512_loadu_si512(thresholds + tile.high_stride + first);
            const uint32_t nonzero = minus | _mm512_cmple_epi32_mask(v, above);
            out[0] = static_cast<uint16_t>((minus ^ flip) & nonzero);
            out[tile.levels_plane] = static_cast<uint16_t>(nonzero);
        } else {
            out[0] = static_cast<uint16_t>(minus ^ flip);
        }
    }
}

// Adds what still waits after `chunks` chunks, and makes counts of the digits of a pixel; `run` is the lowest.
HYPERSIGN_INLINE void finish(int64_t chunks, __m512i run, const Digits &digits, Counts &counts) {
    const __m512i zero = _mm512_setzero_si512();
    __m512i low[8] = {run, zero, zero, zero, zero, zero, zero, zero};
    __m512i high[8] = {zero, zero, zero, zero, zero, zero, zero, zero}, carry = zero;
    for (int i = 0; i < kTree; ++i) low[1 + i] = load(digits.tree[i]);
    for (int weight = 0; weight < kUpper && chunks >> weight; ++weight) {
        __m512i digit = load(digits.upper[weight]);
        carry = add(digit, chunks >> weight & 1 ? load(digits.waiting[weight]) : zero, carry);
        const int to = 1 + kTree + weight;
        (to < 8 ? low[to] : high[to - 8]) = digit;
    }
    transpose(low);
    transpose(high);
    for (int i = 0; i < 8; ++i) {
        store(counts.low + i * kBytes, low[i]);
        store(counts.high + i * kBytes, high[i]);
    }
}

struct Workspace {
    Tables tables;
    alignas(64) Digits digits[kPixelsOfTile];
};

void run(const SlicedTask &task) {
    thread_local std::unique_ptr<Workspace> workspace_of_thread;
    if (!workspace_of_thread) workspace_of_thread.reset(new Workspace);
    Workspace &workspace = *workspace_of_thread;
    const ProductTile &tile = task.tile;
    uint8_t runs[kPixelsOfTile] = {};
    std::memset(workspace.digits, 0, static_cast<size_t>(tile.pixels) * sizeof(Digits));
    const int64_t words = (tile.words + 1) / 2, chunks = tile.taps * words;
    const uint8_t *planes = task.planes;
    __m512i run = _mm512_setzero_si512();
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        take_indices(task, chunk / words, chunk % words, runs, workspace.tables.indices);
        run = tabulate(planes, run, workspace.tables.entries);
        planes += kSlicedLevels * kBytes;
        add_chunk(workspace.tables, tile.pixels, chunk, chunk + 1 < chunks ? planes : nullptr, workspace.digits);
    }
    for (int64_t p = 0; p < tile.pixels; ++p) {
        Counts counts;
        finish(chunks, _mm512_xor_si512(run, _mm512_set1_epi32(-static_cast<int>(runs[p]))), workspace.digits[p], counts);
        epilogue(tile, p, counts);
    }
}

// As measured: making the tables takes as long as some pixels.
bool faster(int64_t pixels) { return pixels >= 6; }

}  // namespace

const SlicedKernels sliced_avx512{kPixelsOfTile, faster, write_indices, run};

}  // namespace hypersign
