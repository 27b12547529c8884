// Many rows with binary weights by lookup tables, the method of the four Russians. Lanes are 32 rows. Five inputs have 32
// sums under all binary weights, and six have 64: a table of registers, in which a filter's weights are the index. A
// word of a filter, 32 weights, is four indices of five and two of six. So an entry, which takes one load and one
// addition of 16-bit numbers, stands for 5.3 * 32 = 171 multiply-accumulates. vpdpbusd makes 64.
//
// A core of this generation loads and adds 1.5 entries a cycle, and 1.3 with the loads of indices. So the bound is 222
// multiply-accumulates a cycle, where a loop of vpmaddubsw and vpaddw makes 64 and vpdpbusd at most 128. The tables of two
// words, 32 KB, stay in the first cache while all filters use them. Sums of three passes, 192 inputs, fit in 16 bits.

#include "avx512.hpp"

#include <algorithm>

#include "inline.hpp"
#include "integers.hpp"
#include "product8/product8.hpp"

namespace hypersign {
namespace {

constexpr int kLanes = 32;      // rows
constexpr int kLine = 64;       // bytes of an entry
constexpr int kPasses = 3;      // whose sums fit in 16 bits
constexpr int kEntries = 256;   // of the tables of a word
constexpr int kFives = 4, kSixes = 2;  // indices of a word
constexpr int kPositions = 8;   // of a byte

// The transpose of 16 x 16 numbers of 32 bits.
HYPERSIGN_INLINE void transpose(__m512i (&v)[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xDD);
        t[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xDD);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        v[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        v[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
        v[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xDD);
    }
}

// Inputs as 16-bit numbers, (depth, 32): lane 2 i is row i and lane 2 i + 1 is row i + 16.
void spread(const int8_t *x, int64_t depth, int16_t *to) {
    const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xFFFF0000));
    for (int64_t k = 0; k < depth; k += 64) {
        const int64_t left = std::min<int64_t>(64, depth - k);
        const __mmask64 valid = left == 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
        __m512i a[16], b[16];
        for (int i = 0; i < 16; ++i) {
            a[i] = _mm512_maskz_loadu_epi8(valid, x + i * depth + k);
            b[i] = _mm512_maskz_loadu_epi8(valid, x + (i + 16) * depth + k);
        }
        transpose(a);
        transpose(b);
        for (int i = 0; i < 16 && 4 * i < left; ++i) {
            const __m512i even[2] = {_mm512_srai_epi16(_mm512_slli_epi16(a[i], 8), 8), _mm512_srai_epi16(a[i], 8)};
            const __m512i more[2] = {_mm512_srai_epi16(_mm512_slli_epi16(b[i], 8), 8), _mm512_srai_epi16(b[i], 8)};
            for (int j = 0; j < 2; ++j) {
                int16_t *at = to + (k + 4 * i + j) * kLanes;
                _mm512_store_si512(at, _mm512_ternarylogic_epi32(odd, _mm512_slli_epi32(more[j], 16), even[j], 0xCA));
                _mm512_store_si512(at + 2 * kLanes,
                                   _mm512_ternarylogic_epi32(odd, more[j], _mm512_srli_epi32(even[j], 16), 0xCA));
            }
        }
    }
}

// The table of `bits` inputs: entry i has -x where a bit of i is 1, and +x elsewhere.
template <int bits>
HYPERSIGN_INLINE void table_of(const __m512i *x, __m512i *to) {
    __m512i sum = x[0];
    for (int i = 1; i < bits; ++i) sum = _mm512_add_epi16(sum, x[i]);
    _mm512_store_si512(to, sum);
#pragma GCC unroll 6
    for (int i = 0; i < bits; ++i) {
        const __m512i twice = _mm512_add_epi16(x[i], x[i]);
        for (int j = 0; j < 1 << i; ++j)
            _mm512_store_si512(to + (1 << i) + j, _mm512_sub_epi16(_mm512_load_si512(to + j), twice));
    }
}

// The tables of a word: bit 8 j + p of it is the weight of input j of a step of position p.
void tabulate(const int16_t *x, int64_t step, int64_t steps, __m512i *to) {
    __m512i inputs[kProduct8Quad * kPositions];
    for (int64_t i = 0; i < kProduct8Quad * kPositions; ++i) {
        const int64_t input = (i % kPositions * steps + step) * kProduct8Quad + i / kPositions;
        inputs[i] = step < steps ? _mm512_load_si512(x + input * kLanes) : _mm512_setzero_si512();
    }
    for (int i = 0; i < kFives; ++i) table_of<5>(inputs + 5 * i, to + 32 * i);
    for (int i = 0; i < kSixes; ++i) table_of<6>(inputs + 5 * kFives + 6 * i, to + 32 * kFives + 64 * i);
}

// Adds four entries, of tables `size` bytes apart except the third, which comes `skip` bytes later.
template <int size, int skip>
HYPERSIGN_INLINE __m512i add_four(__m512i sum, const char *tables, uint64_t offsets) {
    sum = _mm512_add_epi16(sum, _mm512_load_si512(tables + (offsets & 0xFFFF)));
    sum = _mm512_add_epi16(sum, _mm512_load_si512(tables + size + _pext_u64(offsets, 0xFFFF0000)));
    sum = _mm512_add_epi16(sum, _mm512_load_si512(tables + 2 * size + skip + _pext_u64(offsets, 0xFFFF00000000)));
    return _mm512_add_epi16(sum, _mm512_load_si512(tables + 3 * size + skip + (offsets >> 48)));
}

// The words of both steps, filter by filter.
void arrange(const uint8_t *first, const uint8_t *second, uint8_t *words) {
    for (int64_t i = 0; i < kProduct8Step; i += 64, words += 128) {
        const __m512i a = _mm512_loadu_si512(first + i), b = _mm512_loadu_si512(second + i);
        const __m512i low = _mm512_unpacklo_epi32(a, b), high = _mm512_unpackhi_epi32(a, b);
        const __m512i front = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), back = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        _mm512_storeu_si512(words, _mm512_permutex2var_epi64(low, front, high));
        _mm512_storeu_si512(words + 64, _mm512_permutex2var_epi64(low, back, high));
    }
}

// Adds the entries of two words to the 16-bit sums of all filters, or at the end of kPasses passes to the 32-bit sums.
template <bool begin, bool end>
void add(const char *tables, const uint8_t *words, int64_t filters, bool first, __m512i *sums, __m512i *codes) {
    constexpr uint64_t kFive = 31 * kLine * 0x0001000100010001U, kSix = 63 * kLine * 0x0001000100010001U;
    constexpr int kWord = kEntries * kLine, kSkip = kWord - 2 * 64 * kLine;
    for (int64_t f = 0; f < filters; ++f, words += 8) {
        __m512i sum = begin ? _mm512_setzero_si512() : _mm512_load_si512(sums + f);
        uint64_t both;
        std::memcpy(&both, words, sizeof both);
        sum = add_four<32 * kLine, 0>(sum, tables, _pdep_u64(both, kFive));
        sum = add_four<32 * kLine, 0>(sum, tables + kWord, _pdep_u64(both >> 32, kFive));
        sum = add_four<64 * kLine, kSkip>(sum, tables + 32 * kFives * kLine,
                                          _pdep_u64(_pext_u64(both, 0xFFF00000FFF00000U), kSix));
        if (!end) {
            _mm512_store_si512(sums + f, sum);
            continue;
        }
        __m512i low = _mm512_srai_epi32(_mm512_slli_epi32(sum, 16), 16), high = _mm512_srai_epi32(sum, 16);
        if (!first) {
            low = _mm512_add_epi32(low, _mm512_load_si512(codes + 2 * f));
            high = _mm512_add_epi32(high, _mm512_load_si512(codes + 2 * f + 1));
        }
        _mm512_store_si512(codes + 2 * f, low);
        _mm512_store_si512(codes + 2 * f + 1, high);
    }
}

// Writes 16 rows of 16 filters.
void put(const Product8Rows &rows, int64_t row, int64_t filter, __m512i (&sums)[16]) {
    const int64_t left = rows.count - filter;
    const __mmask16 valid = static_cast<__mmask16>(left >= 16 ? 0xFFFF : (1 << left) - 1);
    for (int i = 0; i < 16; ++i) {
        const int64_t at = (row + i) * rows.pitch_y + filter;
        if (rows.sums != nullptr) {
            _mm512_mask_storeu_epi32(rows.sums + at, valid, sums[i]);
        } else {
            const __m512 term = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[i]), _mm512_loadu_ps(rows.scale + filter));
            _mm512_mask_storeu_ps(rows.scaled + at, valid, _mm512_mul_ps(term, _mm512_set1_ps(rows.x_scale[row + i])));
        }
    }
}

void all(const Product8Rows &rows) {
    const int64_t passes = ceil_div(rows.steps, 2), padded = rows.steps * kProduct8Quad * kPositions;
    const int64_t filters = round_up(rows.count, kProduct8Lanes);
    alignas(64) __m512i tables[2 * kEntries];
    __m512i *const sums = reinterpret_cast<__m512i *>(rows.work), *const codes = sums + filters;
    auto *const x = reinterpret_cast<int16_t *>(codes + 2 * filters);
    spread(rows.x, rows.depth, x);
    std::memset(x + rows.depth * kLanes, 0, static_cast<size_t>((padded - rows.depth) * kLine));
    for (int64_t pass = 0; pass < passes; ++pass) {
        for (int i = 0; i < 2; ++i) tabulate(x, 2 * pass + i, rows.steps, tables + i * kEntries);
        const auto *from = reinterpret_cast<const char *>(tables);
        const uint8_t *words = rows.indices + 8 * pass * rows.pitch;
        const bool begin = pass % kPasses == 0, end = pass % kPasses == kPasses - 1 || pass == passes - 1;
        const auto adds = begin ? end ? add<true, true> : add<true, false> : end ? add<false, true> : add<false, false>;
        adds(from, words, filters, pass < kPasses, sums, codes);
    }
    for (int64_t f = 0; f < rows.count; f += 16)
        for (int half = 0; half < 2; ++half) {
            __m512i block[16];
            for (int i = 0; i < 16; ++i) block[i] = _mm512_load_si512(codes + 2 * (f + i) + half);
            transpose(block);
            put(rows, 16 * half, f, block);
        }
}

}  // namespace

const Product8Tables product8_tables_avx512{kLanes, {{8, arrange, all}, {}}};

}  // namespace hypersign
