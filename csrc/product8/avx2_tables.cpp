// Many rows by lookup tables in memory, the method of the four Russians. Lanes are 16 rows.
//
// Binary: five inputs have 32 sums under all weights, and six have 64: a table of registers, in which a filter's weights
// are the index. A word of a filter, 32 weights, is four indices of five and two of six. So an entry, which takes one load
// and one addition of 16-bit numbers, stands for 5.3 * 16 = 85 multiply-accumulates. Ternary: four inputs have 81 sums,
// so an entry stands for 64. vpmaddubsw and vpaddw make 32.
//
// Indices are stored as the offsets of entries, 16 bits each, once for all rows: to find them in the words of weights
// takes a shift and a mask each, and one and a half times as long. So an entry takes a load of its offset and an addition
// with a load. Zen 3 does three loads a cycle, two of them of 32 bytes: at most 128 and 96 multiply-accumulates a cycle,
// where a loop of vpmaddubsw and vpaddw makes 64. The tables of a pass, 16 and 20 KB, stay in the first cache while all
// filters use them. A pass of binary weights has 64 inputs, one of ternary weights 32. The sums of some passes fit in 16
// bits.
#include <immintrin.h>

#include <algorithm>
#include <iterator>

#include "inline.hpp"
#include "integers.hpp"
#include "product8/product8.hpp"

namespace hypersign {
namespace {

constexpr int kLanes = 16;      // rows
constexpr int kLine = 32;       // bytes of an entry
constexpr int kFilters = 8;     // of a transposed block of sums

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

// Binary weights.
struct Binary {
    static constexpr int kPasses = 3;  // whose sums fit in 16 bits: 192 * 128 < 2^15
    static constexpr int kPositions = 8;
    static constexpr int kEntries = 256;  // of the tables of a word

    // The table of `bits` inputs: entry i has -x where a bit of i is 1, and +x elsewhere.
    template <int bits>
    HYPERSIGN_INLINE static void table_of(const __m256i *x, __m256i *to) {
        __m256i sum = x[0];
        for (int i = 1; i < bits; ++i) sum = _mm256_add_epi16(sum, x[i]);
        store(to, sum);
#pragma GCC unroll 6
        for (int i = 0; i < bits; ++i) {
            const __m256i twice = _mm256_add_epi16(x[i], x[i]);
            for (int j = 0; j < 1 << i; ++j) store(to + (1 << i) + j, _mm256_sub_epi16(load(to + j), twice));
        }
    }

    // The tables of a word from its inputs in the order of its bits.
    static void tabulate(const __m256i *x, __m256i *to) {
        for (int i = 0; i < 4; ++i) table_of<5>(x + 5 * i, to + 32 * i);
        for (int i = 0; i < 2; ++i) table_of<6>(x + 20 + 6 * i, to + 128 + 64 * i);
    }

    // The input of bit i: input i / 8 of a step of position i % 8.
    static int64_t input(int64_t i, int64_t step, int64_t steps) {
        return (i % kPositions * steps + step) * kProduct8Quad + i / kPositions;
    }

    static constexpr int kFirst[] = {0, 32, 64, 96, 128, 192};  // entries of a word's tables

    // The offsets of a word of eight filters, two of each filter side by side.
    static void arrange(__m256i words, __m256i *to) {
        const __m256i five = _mm256_set1_epi32(31 * kLine), six = _mm256_set1_epi32(63 * kLine);
        const auto both = [](__m256i first, __m256i second, __m256i mask) {
            return _mm256_or_si256(_mm256_and_si256(first, mask), _mm256_slli_epi32(_mm256_and_si256(second, mask), 16));
        };
        _mm256_storeu_si256(to, both(_mm256_slli_epi32(words, 5), words, five));
        _mm256_storeu_si256(to + 1, both(_mm256_srli_epi32(words, 5), _mm256_srli_epi32(words, 10), five));
        _mm256_storeu_si256(to + 2, both(_mm256_srli_epi32(words, 15), _mm256_srli_epi32(words, 21), six));
    }
};

// Ternary weights. The index of four inputs of a position has their codes as digits.
struct Ternary {
    static constexpr int kPasses = 7;  // 224 * 128 < 2^15
    static constexpr int kPositions = 4;
    static constexpr int kEntries = 4 * 81;

    // Entry i of four inputs: the sum of (digit - 1) x.
    static void tabulate(const __m256i *x, __m256i *to) {
        for (int table = 0; table < 4; ++table, x += 4, to += 81) {
            const __m256i all = _mm256_add_epi16(_mm256_add_epi16(x[0], x[1]), _mm256_add_epi16(x[2], x[3]));
            store(to, _mm256_sub_epi16(_mm256_setzero_si256(), all));
            int known = 1;
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i, known *= 3)
                for (int j = 0; j < known; ++j) {
                    const __m256i once = _mm256_add_epi16(load(to + j), x[i]);
                    store(to + known + j, once);
                    store(to + 2 * known + j, _mm256_add_epi16(once, x[i]));
                }
        }
    }

    // Input i % 4 of a step of position i / 4.
    static int64_t input(int64_t i, int64_t step, int64_t steps) { return (i / 4 * steps + step) * kProduct8Quad + i % 4; }

    static constexpr int kFirst[] = {0, 81, 162, 243};

    static void arrange(__m256i words, __m256i *to) {
        const __m256i code = _mm256_set1_epi8(3), tens = _mm256_set1_epi16(1 | 3 << 8);
        const auto offsets = [&](__m256i codes) {  // kLine (c0 + 3 c1 + 9 c2 + 27 c3)
            const __m256i twos = _mm256_maddubs_epi16(_mm256_and_si256(codes, code), tens);
            return _mm256_madd_epi16(twos, _mm256_set1_epi32(kLine | 9 * kLine << 16));
        };
        for (int i = 0; i < 2; ++i) {
            const __m256i low = offsets(_mm256_srli_epi16(words, 4 * i)), high = offsets(_mm256_srli_epi16(words, 4 * i + 2));
            _mm256_storeu_si256(to + i, _mm256_or_si256(low, _mm256_slli_epi32(high, 16)));
        }
    }
};

// The offsets of 32 filters in two steps: (4, pairs of offsets, 8 filters, 2), first those of the first step.
template <class Weights>
void arrange(const uint8_t *first, const uint8_t *second, uint8_t *indices) {
    auto *to = reinterpret_cast<__m256i *>(indices);
    for (int64_t i = 0; i < kProduct8Step; i += 32)
        for (const uint8_t *from : {first, second}) {
            Weights::arrange(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + i)), to);
            to += std::size(Weights::kFirst) / 2;
        }
}

// Adds the entries of two steps to the 16-bit sums of all filters, or at the end of kPasses passes to the 32-bit sums.
template <class Weights, bool begin, bool end>
void add(const char *tables, const uint8_t *indices, int64_t filters, bool first, __m256i *sums, __m256i *codes) {
    constexpr int kStep = std::size(Weights::kFirst);  // entries of a step
    for (int64_t start = 0; start < filters; start += kFilters, indices += 2 * kStep * sizeof(uint16_t) * kFilters)
        for (int64_t f = start; f < start + kFilters; ++f) {
            const uint8_t *offsets = indices + (f - start) * 2 * sizeof(uint16_t);
            __m256i sum = begin ? _mm256_setzero_si256() : load(sums + f), more = _mm256_setzero_si256();
#pragma GCC unroll 12
            for (int i = 0; i < 2 * kStep; ++i) {
                uint16_t offset;
                std::memcpy(&offset, offsets + i / 2 * 2 * sizeof(uint16_t) * kFilters + i % 2 * sizeof(uint16_t), 2);
                const int table = i / kStep * Weights::kEntries + Weights::kFirst[i % kStep];
                __m256i &to = i % 2 ? more : sum;
                to = _mm256_add_epi16(to, load(tables + table * kLine + offset));
            }
            sum = _mm256_add_epi16(sum, more);
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
constexpr int64_t bytes() {
    return 2 * std::size(Weights::kFirst) * sizeof(uint16_t);
}

template <class Weights>
void all(const Product8Rows &rows) {
    constexpr int kInputs = kProduct8Quad * Weights::kPositions;  // of a word
    const int64_t passes = ceil_div(rows.steps, 2), padded = rows.steps * kInputs;
    const int64_t filters = round_up(rows.count, kProduct8Lanes);
    alignas(32) __m256i tables[2 * Weights::kEntries];
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
            Weights::tabulate(inputs, tables + i * Weights::kEntries);
        }
        const bool begin = pass % Weights::kPasses == 0;
        const bool end = pass % Weights::kPasses == Weights::kPasses - 1 || pass == passes - 1;
        const auto adds = begin ? end ? add<Weights, true, true> : add<Weights, true, false>
                          : end ? add<Weights, false, true>
                                : add<Weights, false, false>;
        adds(reinterpret_cast<const char *>(tables), rows.indices + pass * rows.pitch * bytes<Weights>(), filters,
             pass < Weights::kPasses, sums, codes);
    }
    for (int64_t f = 0; f < rows.count; f += kFilters)
        for (int half = 0; half < 2; ++half) {
            __m256i block[8];
            for (int i = 0; i < 8; ++i) block[i] = load(codes + 2 * (f + i) + half);
            transpose(block);
            put(rows, 8 * half, f, block);
        }
}

}  // namespace

const Product8Tables product8_tables_avx2{kLanes,
                                          {{bytes<Binary>(), arrange<Binary>, all<Binary>},
                                           {bytes<Ternary>(), arrange<Ternary>, all<Ternary>}}};

}  // namespace hypersign
