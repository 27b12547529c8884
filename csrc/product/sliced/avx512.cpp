// Bit-sliced counting with AVX-512. product/sliced/sliced.hpp explains the method.
//
// A full adder is two ternary logic operations, on ports 0 and 5 of Intel's cores: one cycle for two levels of 512
// filters, 1024 multiply-accumulates, where counting takes three cycles (product/avx512.cpp). Registers of 256 bits take
// as long, but have 8 KiB of tables for 16. Beside it a step loads its index and its entry.
//
// The digits of a pixel wait in memory between two chunks. Those of the lowest five weights are read and written by every
// chunk, which adds up its 32 carries as a tree: two registers of one weight make one of the next. What leaves the tree
// has weight 64. From there on, every other register waits for its partner, as in a binary counter; all pixels have
// theirs waiting at the same weights.
//
// Instructions: Intel Intrinsics Guide; ports: uops.info, table of VPTERNLOGD.

// GCC 12 takes the undefined operand of its own unmasked intrinsics for a variable someone forgot to set.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

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

// Registers of 512 or 256 filters.
struct Wide {
    using Vector = __m512i;
    static constexpr int kBytes = 64;
    static HYPERSIGN_INLINE Vector load(const void *from) { return _mm512_load_si512(from); }
    static HYPERSIGN_INLINE void store(void *to, Vector v) { _mm512_store_si512(to, v); }
    static HYPERSIGN_INLINE Vector all(bool bit) { return _mm512_set1_epi32(bit ? -1 : 0); }
    template <int F>
    static HYPERSIGN_INLINE Vector logic(Vector a, Vector b, Vector c) {
        return _mm512_ternarylogic_epi32(a, b, c, F);
    }
    static HYPERSIGN_INLINE Vector left(Vector v, int by) { return _mm512_slli_epi32(v, by); }
    static HYPERSIGN_INLINE Vector right(Vector v, int by) { return _mm512_srli_epi32(v, by); }
    static HYPERSIGN_INLINE Vector mask(uint32_t value) { return _mm512_set1_epi32(static_cast<int>(value)); }
};

struct Narrow {
    using Vector = __m256i;
    static constexpr int kBytes = 32;
    static HYPERSIGN_INLINE Vector load(const void *from) {
        return _mm256_load_si256(static_cast<const __m256i *>(from));
    }
    static HYPERSIGN_INLINE void store(void *to, Vector v) { _mm256_store_si256(static_cast<__m256i *>(to), v); }
    static HYPERSIGN_INLINE Vector all(bool bit) { return _mm256_set1_epi32(bit ? -1 : 0); }
    template <int F>
    static HYPERSIGN_INLINE Vector logic(Vector a, Vector b, Vector c) {
        return _mm256_ternarylogic_epi32(a, b, c, F);
    }
    static HYPERSIGN_INLINE Vector left(Vector v, int by) { return _mm256_slli_epi32(v, by); }
    static HYPERSIGN_INLINE Vector right(Vector v, int by) { return _mm256_srli_epi32(v, by); }
    static HYPERSIGN_INLINE Vector mask(uint32_t value) { return _mm256_set1_epi32(static_cast<int>(value)); }
};

// Functions of three bits, by the value at 4 a + 2 b + c.
constexpr int kSum = 0x96, kMajority = 0xe8;

// Adds b and c to the digit a; returns the carry. Of a sum s = a ^ b ^ c it is b where b = c, and not s elsewhere, so
// that no register is copied.
template <class R>
HYPERSIGN_INLINE typename R::Vector add(typename R::Vector &a, typename R::Vector b, typename R::Vector c) {
    a = R::template logic<kSum>(a, b, c);
    return R::template logic<0xb2>(b, a, c);
}

// The tables of a chunk, and what each pixel looks up.
struct Tables {
    alignas(64) uint8_t entries[kSteps * 8 * Wide::kBytes];  // [step][run + 2 b + 4 c]
    alignas(64) uint8_t indices[kPixelsOfTile * kSteps];     // times 8
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

// Makes the tables of 64 levels; `run` is the filters' digit before them, and after them.
template <class R>
HYPERSIGN_INLINE void tabulate(const uint8_t *planes, typename R::Vector &run, uint8_t *entries) {
    auto a = run;
    for (int step = 0; step < kSteps; ++step, entries += 8 * R::kBytes) {
        const auto b = R::load(planes + step * R::kBytes), c = R::load(planes + (kSteps + step) * R::kBytes);
        const auto write = [&](int index, auto value) { R::store(entries + index * R::kBytes, value); };
        write(0, R::template logic<kMajority>(a, b, c));
        write(1, R::template logic<0x8e>(a, b, c));  // majority(~a, b, c), and so on
        write(2, R::template logic<0xb2>(a, b, c));
        write(3, R::template logic<0x2b>(a, b, c));
        write(4, R::template logic<0xd4>(a, b, c));
        write(5, R::template logic<0x4d>(a, b, c));
        write(6, R::template logic<0x71>(a, b, c));
        write(7, R::template logic<0x17>(a, b, c));
        a = R::template logic<kSum>(a, b, c);
    }
    run = a;
}

template <class R, int Step>
HYPERSIGN_INLINE typename R::Vector entry(const uint8_t *entries, const uint8_t *indices) {
    return R::load(entries + Step * 8 * R::kBytes + static_cast<int64_t>(indices[Step]) * (R::kBytes / 8));
}

// Adds 2^(Weight + 1) carries, from `Step` on, to the digits; returns the carry.
template <class R, int Step, int Weight>
HYPERSIGN_INLINE typename R::Vector add_carries(const uint8_t *entries, const uint8_t *indices,
                                                typename R::Vector (&digits)[kTree]) {
    if constexpr (Weight == 0) {
        const auto b = entry<R, Step>(entries, indices), c = entry<R, Step + 1>(entries, indices);
        return add<R>(digits[0], b, c);
    } else {
        const auto b = add_carries<R, Step, Weight - 1>(entries, indices, digits);
        const auto c = add_carries<R, Step + (1 << Weight), Weight - 1>(entries, indices, digits);
        return add<R>(digits[Weight], b, c);
    }
}

// Where the digits of a pixel lie: those of the tree, then of the upper weights, then the registers that wait.
template <class R>
struct Digits {
    static constexpr int kBytes = (kTree + 2 * kUpper) * R::kBytes;
    uint8_t *at;

    void *tree(int weight) const { return at + weight * R::kBytes; }
    void *upper(int weight) const { return at + (kTree + weight) * R::kBytes; }
    void *waiting(int weight) const { return at + (kTree + kUpper + weight) * R::kBytes; }
};

// Adds the carries of chunk number `chunk` for all pixels, while the planes at `next` come from afar.
template <class R>
__attribute__((noinline)) void add_chunk(const Tables &tables, int64_t pixels, int64_t chunk, const uint8_t *next,
                                         uint8_t *state) {
    constexpr int kLine = 64, kLines = kSlicedLevels * R::kBytes / kLine;
    const uint8_t *const entries = tables.entries;
    const int64_t lines = (kLines + pixels - 1) / pixels;  // for each pixel
    for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t i = 0; i < lines && next; ++i)
            _mm_prefetch(reinterpret_cast<const char *>(next + (p * lines + i) * kLine), _MM_HINT_T0);
        const Digits<R> digits{state + p * Digits<R>::kBytes};
        typename R::Vector tree[kTree];
        for (int i = 0; i < kTree; ++i) tree[i] = R::load(digits.tree(i));
        auto carry = add_carries<R, 0, kTree - 1>(entries, tables.indices + p * kSteps, tree);
        for (int i = 0; i < kTree; ++i) R::store(digits.tree(i), tree[i]);
        int weight = 0;
        for (int64_t waits = chunk; waits & 1; waits >>= 1, ++weight) {
            auto digit = R::load(digits.upper(weight));
            carry = add<R>(digit, R::load(digits.waiting(weight)), carry);
            R::store(digits.upper(weight), digit);
        }
        R::store(digits.waiting(weight), carry);
    }
}

// Transposes 8 x 8 bits in each byte: bit j of register i goes to bit i of register j.
template <class R>
HYPERSIGN_INLINE void transpose(typename R::Vector (&of)[8]) {
    constexpr uint32_t kMasks[3] = {0x55555555, 0x33333333, 0x0f0f0f0f};
#pragma GCC unroll 3
    for (int stage = 0; stage < 3; ++stage) {
        const int by = 1 << stage;
        const auto mask = R::mask(kMasks[stage]);
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
            if (i & by) continue;
            auto &a = of[i], &b = of[i + by];
            // Swaps the bits of a above the mask with those of b in it.
            const auto swap = R::template logic<0x28>(R::right(a, by), b, mask);  // (a ^ b) & mask
            b = R::template logic<0x3c>(b, swap, swap);                           // b ^ swap
            const auto up = R::left(swap, by);
            a = R::template logic<0x3c>(a, up, up);
        }
    }
}

HYPERSIGN_INLINE __m512i wide(const uint8_t *bytes) {
    return _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i *>(bytes)));
}

// Sums or levels of a pixel, from the bytes of its counts.
HYPERSIGN_INLINE void epilogue(const ProductTile &tile, int64_t p, const uint8_t *low, const uint8_t *high) {
    const int32_t *thresholds = tile.thresholds[p] + tile.first_filter;
    for (int first = 0; first < tile.filters; first += 16) {
        const __m512i v = _mm512_or_si512(wide(low + first), _mm512_slli_epi32(wide(high + first), 8));
        const __m512i threshold = _mm512_loadu_si512(thresholds + first);
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
template <class R>
HYPERSIGN_INLINE void finish(const ProductTile &tile, int64_t p, int64_t chunks, typename R::Vector run,
                             const Digits<R> &digits) {
    typename R::Vector low[8], high[8];
    alignas(64) uint8_t bytes[2][8 * R::kBytes];
    for (int i = 0; i < 8; ++i) high[i] = R::all(false);
    low[0] = run;
    for (int i = 0; i < kTree; ++i) low[1 + i] = R::load(digits.tree(i));
    for (int i = 1 + kTree; i < 8; ++i) low[i] = R::all(false);
    auto carry = R::all(false);
    for (int weight = 0; weight < kUpper && chunks >> weight; ++weight) {
        auto digit = R::load(digits.upper(weight));
        const auto waits = chunks >> weight & 1 ? R::load(digits.waiting(weight)) : R::all(false);
        carry = add<R>(digit, waits, carry);
        const int to = 1 + kTree + weight;
        (to < 8 ? low[to] : high[to - 8]) = digit;
    }
    transpose<R>(low);
    transpose<R>(high);
    for (int i = 0; i < 8; ++i) {
        R::store(bytes[0] + i * R::kBytes, low[i]);
        R::store(bytes[1] + i * R::kBytes, high[i]);
    }
    epilogue(tile, p, bytes[0], bytes[1]);
}

struct Workspace {
    Tables tables;
    alignas(64) uint8_t state[kPixelsOfTile * Digits<Wide>::kBytes];
};

template <class R>
void run_task(const SlicedTask &task, Workspace &workspace) {
    const ProductTile &tile = task.tile;
    uint8_t runs[kPixelsOfTile] = {};
    std::memset(workspace.state, 0, static_cast<size_t>(tile.pixels) * Digits<R>::kBytes);
    const int64_t words = (tile.words + 1) / 2;
    const uint8_t *planes = task.planes;
    auto run = R::all(false);
    int64_t chunk = 0;
    for (int64_t tap = 0; tap < tile.taps; ++tap)
        for (int64_t word = 0; word < words; ++word, ++chunk, planes += kSlicedLevels * R::kBytes) {
            take_indices(task, tap, word, runs, workspace.tables.indices);
            tabulate<R>(planes, run, workspace.tables.entries);
            const bool last = tap + 1 == tile.taps && word + 1 == words;
            add_chunk<R>(workspace.tables, tile.pixels, chunk, last ? nullptr : planes + kSlicedLevels * R::kBytes,
                         workspace.state);
        }
    for (int64_t p = 0; p < tile.pixels; ++p) {
        const auto all = R::all(runs[p]);
        finish<R>(tile, p, chunk, R::template logic<0x3c>(run, all, all),
                  Digits<R>{workspace.state + p * Digits<R>::kBytes});
    }
}

void run(const SlicedTask &task) {
    thread_local std::unique_ptr<Workspace> workspace;
    if (!workspace) workspace.reset(new Workspace);
    task.bits == 8 * Wide::kBytes ? run_task<Wide>(task, *workspace) : run_task<Narrow>(task, *workspace);
}

// As measured: making the tables takes as long as some pixels.
bool faster(int64_t pixels, int64_t bits) { return pixels >= (bits == 8 * Wide::kBytes ? 6 : 24); }

}  // namespace

const SlicedKernels sliced_avx512{kPixelsOfTile, faster, write_indices, run};

}  // namespace hypersign
