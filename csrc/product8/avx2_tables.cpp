// Many rows by lookup tables in memory, the method of the four Russians. Lanes are 16 rows.
//
// Binary: five inputs have 32 sums under all weights, and six have 64: a table, in which a filter's weights are the index.
// A word of a filter, 32 weights, is four indices of five and two of six. So an entry, which takes one load and one
// addition of 16-bit numbers, stands for 5.3 * 16 = 85 multiply-accumulates. Ternary: four inputs have 81 sums, so an
// entry stands for 64. vpmaddubsw and vpaddw make 32.
//
// Zen 3 starts six instructions a cycle, of which an entry takes up to four: its index is copied, shifted and masked.
// With the loads and stores of words and sums the bounds are 105 and 71 multiply-accumulates a cycle, where a loop of
// vpmaddubsw and vpaddw makes 64; 70 and 48 are reached (benchmarks/bench_product8.py). The tables of two words, 16 and
// 20 KB, stay in the first cache while all filters use them; indices of 16 bits that only need a load, and 32 lanes, were
// no faster. The sums of some words fit in 16 bits.
#include <immintrin.h>

#include <algorithm>

#include "inline.hpp"
#include "integers.hpp"
#include "product8/product8.hpp"

namespace hypersign {
namespace {

constexpr int kLanes = 16;   // rows
constexpr int kLine = 32;    // bytes of an entry
constexpr int kWords = 8;    // bytes of two words of a filter
constexpr int kFilters = 8;  // of a transposed block of sums

HYPERSIGN_INLINE __m256i load(const void *from) { return _mm256_load_si256(static_cast<const __m256i *>(from)); }
HYPERSIGN_INLINE void store(void *to, __m256i x) { _mm256_store_si256(static_cast<__m256i *>(to), x); }

// Inputs as 16-bit numbers, (depth, 16).
void spread(const int8_t *x, int64_t depth, int16_t *to) {
    for (int64_t k = 0; k < depth; k += 16) {
        const int64_t left = std::min<int64_t>(16, depth - k);
        __m128i v[16], t[16];
        for (int i = 0; i < 16; ++i) {
            alignas(16) int8_t part[16] = {};
            std::memcpy(part, x + i * depth + k, static_cast<size_t>(left));
            v[i] = _mm_load_si128(reinterpret_cast<const __m128i *>(part));
        }
#pragma GCC unroll 4
        for (int round = 0; round < 4; ++round) {  // each moves every byte a quarter of its way
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) {
                t[2 * i] = _mm_unpacklo_epi8(v[i], v[i + 8]);
                t[2 * i + 1] = _mm_unpackhi_epi8(v[i], v[i + 8]);
            }
#pragma GCC unroll 16
            for (int i = 0; i < 16; ++i) v[i] = t[i];
        }
        for (int64_t i = 0; i < left; ++i) store(to + (k + i) * kLanes, _mm256_cvtepi8_epi16(v[i]));
    }
}

// A table: every sum of `front` with each of `back`, those of the first sum of `back` first.
template <int F, int B>
HYPERSIGN_INLINE void sums_of(const __m256i (&front)[F], const __m256i (&back)[B], char *to) {
    for (int b = 0; b < B; ++b)
#pragma GCC unroll 9
        for (int f = 0; f < F; ++f, to += kLine) store(to, _mm256_add_epi16(front[f], back[b]));
}

// Binary weights.
struct Binary {
    static constexpr int kPasses = 3;  // pairs of words whose sums fit in 16 bits: 3 * 64 * 128 < 2^15
    static constexpr int kPositions = 8;
    static constexpr int kEntries = 256;

    // All sums +-x[0] +-x[1] ...: bit i of the place of a sum is 1 where x[i] counts negatively.
    template <int inputs>
    HYPERSIGN_INLINE static void signs(const __m256i *x, __m256i (&to)[1 << inputs]) {
        to[0] = x[0];
        for (int i = 1; i < inputs; ++i) to[0] = _mm256_add_epi16(to[0], x[i]);
#pragma GCC unroll 3
        for (int i = 0; i < inputs; ++i)
            for (int j = 0; j < 1 << i; ++j)
                to[(1 << i) + j] = _mm256_sub_epi16(to[j], _mm256_add_epi16(x[i], x[i]));
    }

    template <int inputs>
    HYPERSIGN_INLINE static void table_of(const __m256i *x, char *to) {
        __m256i front[8], back[1 << (inputs - 3)];
        signs<3>(x, front);
        signs<inputs - 3>(x + 3, back);
        sums_of(front, back, to);
    }

    // The tables of a word, from its inputs in the order of its bits.
    static void tabulate(const __m256i *x, char *to) {
        for (int i = 0; i < 4; ++i) table_of<5>(x + 5 * i, to + 32 * i * kLine);
        for (int i = 0; i < 2; ++i) table_of<6>(x + 20 + 6 * i, to + (128 + 64 * i) * kLine);
    }

    // The input of bit i: input i / 8 of a step of position i % 8.
    static int64_t input(int64_t i, int64_t step, int64_t steps) {
        return (i % kPositions * steps + step) * kProduct8Quad + i / kPositions;
    }

    HYPERSIGN_INLINE static __m256i indices(__m256i words) { return words; }

    // Adds the entries of a word.
    HYPERSIGN_INLINE static __m256i add(__m256i sum, const char *tables, uint32_t word) {
        constexpr uint32_t kFive = 31 * kLine, kSix = 63 * kLine;
        sum = _mm256_add_epi16(sum, load(tables + (word << 5 & kFive)));
        sum = _mm256_add_epi16(sum, load(tables + 32 * kLine + (word & kFive)));
        sum = _mm256_add_epi16(sum, load(tables + 64 * kLine + (word >> 5 & kFive)));
        sum = _mm256_add_epi16(sum, load(tables + 96 * kLine + (word >> 10 & kFive)));
        sum = _mm256_add_epi16(sum, load(tables + 128 * kLine + (word >> 15 & kSix)));
        return _mm256_add_epi16(sum, load(tables + 192 * kLine + (word >> 21 & kSix)));
    }
};

// Ternary weights. The index of four inputs of a position has their codes as digits; a word has a byte for each position.
struct Ternary {
    static constexpr int kPasses = 7;  // 7 * 32 * 128 < 2^15
    static constexpr int kPositions = 4;
    static constexpr int kEntries = 4 * 81;

    // The sums of (digit - 1) x for the digits of 0 to 8, the lower one first.
    HYPERSIGN_INLINE static void digits(const __m256i *x, __m256i (&to)[9]) {
        to[0] = _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_add_epi16(x[0], x[1]));
        for (int i = 1; i < 3; ++i) to[i] = _mm256_add_epi16(to[i - 1], x[0]);
        for (int i = 3; i < 9; ++i) to[i] = _mm256_add_epi16(to[i - 3], x[1]);
    }

    static void tabulate(const __m256i *x, char *to) {
        for (int table = 0; table < 4; ++table, x += 4, to += 81 * kLine) {
            __m256i front[9], back[9];
            digits(x, front);
            digits(x + 2, back);
            sums_of(front, back, to);
        }
    }

    // Input i % 4 of a step of position i / 4.
    static int64_t input(int64_t i, int64_t step, int64_t steps) { return (i / 4 * steps + step) * kProduct8Quad + i % 4; }

    HYPERSIGN_INLINE static __m256i indices(__m256i words) {
        __m256i found = _mm256_setzero_si256();
        for (int position = 0; position < 4; ++position) {
            const __m256i codes = _mm256_and_si256(_mm256_srli_epi16(words, 2 * position), _mm256_set1_epi8(3));
            const __m256i twos = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(1 | 3 << 8));
            const __m256i index = _mm256_madd_epi16(twos, _mm256_set1_epi32(1 | 9 << 16));
            found = _mm256_or_si256(found, _mm256_slli_epi32(index, 8 * position));
        }
        return found;
    }

    HYPERSIGN_INLINE static __m256i add(__m256i sum, const char *tables, uint32_t word) {
        constexpr uint32_t kByte = 255 * kLine;
        sum = _mm256_add_epi16(sum, load(tables + (word << 5 & kByte)));
        sum = _mm256_add_epi16(sum, load(tables + 81 * kLine + (word >> 3 & kByte)));
        sum = _mm256_add_epi16(sum, load(tables + 162 * kLine + (word >> 11 & kByte)));
        return _mm256_add_epi16(sum, load(tables + 243 * kLine + (word >> 19 & kByte)));
    }
};

// The words of both steps, filter by filter.
template <class Weights>
void arrange(const uint8_t *first, const uint8_t *second, uint8_t *words) {
    for (int64_t i = 0; i < kProduct8Step; i += 32, words += 64) {
        const __m256i a = Weights::indices(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(first + i)));
        const __m256i b = Weights::indices(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(second + i)));
        const __m256i low = _mm256_unpacklo_epi32(a, b), high = _mm256_unpackhi_epi32(a, b);
        auto *const to = reinterpret_cast<__m256i *>(words);
        _mm256_storeu_si256(to, _mm256_permute2x128_si256(low, high, 0x20));
        _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(low, high, 0x31));
    }
}

// Adds the entries of two words to the 16-bit sums of all filters, or at the end of kPasses passes to the 32-bit sums.
template <class Weights, bool begin, bool end>
void add(const char *tables, const uint8_t *words, int64_t filters, bool first, __m256i *sums, __m256i *codes) {
    for (int64_t f = 0; f < filters; ++f) {
        uint32_t both[2];
        std::memcpy(both, words + f * sizeof both, sizeof both);
        __m256i sum = begin ? _mm256_setzero_si256() : load(sums + f);
        sum = Weights::add(sum, tables, both[0]);
        sum = Weights::add(sum, tables + Weights::kEntries * kLine, both[1]);
        if (!end) {
            store(sums + f, sum);
            continue;
        }
        __m256i low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sum));
        __m256i high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sum, 1));
        if (!first) {
            low = _mm256_add_epi32(low, load(codes + 2 * f));
            high = _mm256_add_epi32(high, load(codes + 2 * f + 1));
        }
        store(codes + 2 * f, low);
        store(codes + 2 * f + 1, high);
    }
}

// The transpose of 8 x 8 numbers of 32 bits.
HYPERSIGN_INLINE void transpose(__m256i (&v)[8]) {
    __m256i t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        v[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm256_permute2x128_si256(v[i], v[i + 4], 0x20);
        t[i + 4] = _mm256_permute2x128_si256(v[i], v[i + 4], 0x31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) v[i] = t[i];
}

// Writes eight rows of eight filters, or of the filters that are left.
void put(const Product8Rows &rows, int64_t row, int64_t filter, const __m256i (&sums)[8]) {
    const int64_t left = std::min<int64_t>(kFilters, rows.count - filter);
    const __m256i valid = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(left)),
                                             _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    for (int i = 0; i < 8; ++i) {
        const int64_t at = (row + i) * rows.pitch_y + filter;
        if (rows.sums != nullptr) {
            _mm256_maskstore_epi32(rows.sums + at, valid, sums[i]);
        } else {
            const __m256 scale = _mm256_maskload_ps(rows.scale + filter, valid);
            const __m256 term = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[i]), scale);
            _mm256_maskstore_ps(rows.scaled + at, valid, _mm256_mul_ps(term, _mm256_set1_ps(rows.x_scale[row + i])));
        }
    }
}

template <class Weights>
void all(const Product8Rows &rows) {
    constexpr int kInputs = kProduct8Quad * Weights::kPositions;  // of a word
    const int64_t passes = ceil_div(rows.steps, 2), padded = rows.steps * kInputs;
    const int64_t filters = round_up(rows.count, kProduct8Lanes);
    alignas(64) char tables[2 * Weights::kEntries * kLine];
    __m256i *const sums = reinterpret_cast<__m256i *>(rows.work), *const codes = sums + filters;
    auto *const x = reinterpret_cast<int16_t *>(codes + 2 * filters);
    spread(rows.x, rows.depth, x);
    std::memset(x + rows.depth * kLanes, 0, static_cast<size_t>((padded - rows.depth) * kLine));
    for (int64_t pass = 0; pass < passes; ++pass) {
        for (int64_t i = 0; i < 2; ++i) {
            __m256i inputs[kInputs];
            const int64_t step = 2 * pass + i;
            for (int64_t j = 0; j < kInputs; ++j)
                inputs[j] = step < rows.steps ? load(x + Weights::input(j, step, rows.steps) * kLanes)
                                              : _mm256_setzero_si256();
            Weights::tabulate(inputs, tables + i * Weights::kEntries * kLine);
        }
        const bool begin = pass % Weights::kPasses == 0;
        const bool end = pass % Weights::kPasses == Weights::kPasses - 1 || pass == passes - 1;
        const auto adds = begin ? end ? add<Weights, true, true> : add<Weights, true, false>
                          : end ? add<Weights, false, true>
                                : add<Weights, false, false>;
        adds(tables, rows.indices + pass * rows.pitch * kWords, filters, pass < Weights::kPasses, sums, codes);
    }
    for (int64_t f = 0; f < rows.count; f += kFilters)
        for (int half = 0; half < 2; ++half) {
            __m256i block[8];
            for (int i = 0; i < 8; ++i) block[i] = load(codes + 2 * (f + i) + half);
            transpose(block);
            put(rows, 8 * half, f, block);
        }
}

template <class Weights>
constexpr Product8Tables::Kind kKind{kWords, arrange<Weights>, all<Weights>};

}  // namespace

const Product8Tables product8_tables_avx2{kLanes, {kKind<Binary>, kKind<Ternary>}};

}  // namespace hypersign
