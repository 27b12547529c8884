// Codes stand side by side, one in each 32-bit lane, so that no sum ever crosses lanes: with 64 codes in four
// registers, each half word of the query is broadcast once and costs three instructions for every 16 codes (xor with
// memory, popcount, add), of which the popcount has a port to itself. Transposing costs about as much as comparing
// with eight queries.
#include <immintrin.h>

#include "hamming/hamming.hpp"

namespace hypersign {
namespace {

// Block: for every 64 codes, for every word, the lower halves of the 64 words, then the upper halves.
void layout(const uint64_t *codes, int64_t count, int64_t words, uint64_t *block) {
    const __m512i rows_i64x8 = _mm512_mullo_epi64(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi64(words));
    const __m512i lower_i32x16 = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i upper_i32x16 = _mm512_add_epi32(lower_i32x16, _mm512_set1_epi32(1));
    for (int64_t group = 0; group < count; group += 64, codes += 64 * words, block += 64 * words)
        for (int64_t part = 0; part < 64; part += 16) {
            const int64_t left = count - group - part;
            const uint32_t valid = left <= 0 ? 0 : left >= 16 ? 0xFFFF : (1u << left) - 1;
            const uint64_t *first = codes + part * words;
            const __m512i zero = _mm512_setzero_si512();
            for (int64_t word = 0; word < words; ++word) {
                const __m512i a_u64x8 = _mm512_mask_i64gather_epi64(zero, static_cast<__mmask8>(valid), rows_i64x8,
                                                                    first + word, 8);
                const __m512i b_u64x8 = _mm512_mask_i64gather_epi64(zero, static_cast<__mmask8>(valid >> 8),
                                                                    rows_i64x8, first + 8 * words + word, 8);
                uint64_t *to = block + word * 64 + part / 2;
                _mm512_storeu_si512(to, _mm512_permutex2var_epi32(a_u64x8, lower_i32x16, b_u64x8));
                _mm512_storeu_si512(to + 32, _mm512_permutex2var_epi32(a_u64x8, upper_i32x16, b_u64x8));
            }
        }
}

int64_t nearer(const uint64_t *block, int64_t count, const uint64_t *query, int64_t words, int32_t limit,
               uint32_t *positions, int32_t *distances) {
    const __m512i limit_i32x16 = _mm512_set1_epi32(limit);
    const __m512i lanes_i32x16 = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const auto *halves = reinterpret_cast<const char *>(query);
    int64_t found = 0;
    for (int64_t group = 0; group < count; group += 64) {
        __m512i sum_i32x16[4] = {};
        for (int64_t half = 0; half < 2 * words; ++half, block += 32) {
            int32_t bits;
            __builtin_memcpy(&bits, halves + 4 * half, 4);
            const __m512i query_u32x16 = _mm512_set1_epi32(bits);
            for (int part = 0; part < 4; ++part) {
                const __m512i difference_u32x16 =
                    _mm512_xor_si512(query_u32x16, _mm512_loadu_si512(block + 8 * part));
                sum_i32x16[part] = _mm512_add_epi32(sum_i32x16[part], _mm512_popcnt_epi32(difference_u32x16));
            }
        }
        uint64_t near = 0;
        for (int part = 0; part < 4; ++part)
            near |= static_cast<uint64_t>(_mm512_cmplt_epi32_mask(sum_i32x16[part], limit_i32x16)) << (16 * part);
        if (count - group < 64) near &= ~uint64_t{0} >> (64 - (count - group));
        if (near == 0) continue;
        for (int part = 0; part < 4; ++part) {
            const auto here = static_cast<__mmask16>(near >> (16 * part));
            if (here == 0) continue;
            const int number = __builtin_popcount(here);
            const auto first = static_cast<__mmask16>((1u << number) - 1);
            const __m512i at_i32x16 =
                _mm512_add_epi32(lanes_i32x16, _mm512_set1_epi32(static_cast<int32_t>(group) + 16 * part));
            _mm512_mask_storeu_epi32(positions + found, first, _mm512_maskz_compress_epi32(here, at_i32x16));
            _mm512_mask_storeu_epi32(distances + found, first, _mm512_maskz_compress_epi32(here, sum_i32x16[part]));
            found += number;
        }
    }
    return found;
}

}  // namespace

const HammingKernels hamming_avx512{layout, nearer, 1};

}  // namespace hypersign
