// Lookups with AVX-512 VBMI and VNNI; everything else as with AVX2.
//
// A byte permutation (vpermb) looks up 64 bytes of a whole register, so two tables, of sixteen numbers, lie in one
// register: four neighbouring bytes are one channel's four sums. Their product with four signs, added up in 32 bits
// (vpdpbusd), needs neither a further addition nor a flush: 256 multiply-accumulates, of 16 channels by 16 numbers,
// take two instructions in place of three for 128.
//
// The bottleneck is port 5 of Intel's cores, where permutations and the interleaving of two tables' indices go: for
// eight rows of tables 16 and 4 instructions of 512 bits, 205 multiply-accumulates per cycle. Half of the rows would
// leave 170. Registers: 16 accumulators, 4 of indices and signs, a table.
//
// Instructions: Intel Intrinsics Guide; ports: uops.info, tables of VPERMB, VPDPBUSD and VPUNPCKLWD (ZMM).

// GCC 12 takes the undefined operand of its own unmasked intrinsics for a variable someone forgot to set.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "gradient/gradient.hpp"

namespace hypersign {
namespace {

template <int rows>
void look(const uint8_t *const *tables, const Segment *segments, int64_t count, int32_t (*sums)[kBlock]) {
    const __m512i second_i32x16 = _mm512_set1_epi32(0x10100000);  // the second table's entries lie 16 bytes further
    __m512i low_i32x16[rows], high_i32x16[rows];  // in each 128 bits, the first and the last four of eight channels
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) low_i32x16[r] = high_i32x16[r] = _mm512_setzero_si512();
    for (const Segment *segment = segments; segment < segments + count; ++segment) {
        const uint8_t *index = segment->indices;
        for (int64_t t = 0; t < segment->tables; t += 2, index += 2 * kIndices) {
            const bool pair = t + 1 < segment->tables;
            const uint8_t *other = pair ? index + kIndices : index;
            const __m512i first_u8x64 = _mm512_loadu_si512(index), more_u8x64 = _mm512_loadu_si512(other);
            const __m512i first_i8x64 = _mm512_loadu_si512(index + 2 * kBlock);
            const __m512i more_i8x64 = pair ? _mm512_loadu_si512(other + 2 * kBlock) : _mm512_setzero_si512();
            const __m512i low_u8x64 = _mm512_or_si512(_mm512_unpacklo_epi16(first_u8x64, more_u8x64), second_i32x16);
            const __m512i high_u8x64 = _mm512_or_si512(_mm512_unpackhi_epi16(first_u8x64, more_u8x64), second_i32x16);
            const __m512i low_i8x64 = _mm512_unpacklo_epi16(first_i8x64, more_i8x64);
            const __m512i high_i8x64 = _mm512_unpackhi_epi16(first_i8x64, more_i8x64);
#pragma GCC unroll 8
            for (int r = 0; r < rows; ++r) {
                // 32 bytes are read also where there is one table: memory of tables does not end with them.
                const __m256i half_u8x32 = _mm256_loadu_si256(
                    reinterpret_cast<const __m256i *>(tables[r] + segment->offset + t * kTable));
                const __m512i entries_u8x64 = _mm512_broadcast_i64x4(half_u8x32);
                low_i32x16[r] = _mm512_dpbusd_epi32(low_i32x16[r], _mm512_permutexvar_epi8(low_u8x64, entries_u8x64),
                                                    low_i8x64);
                high_i32x16[r] = _mm512_dpbusd_epi32(
                    high_i32x16[r], _mm512_permutexvar_epi8(high_u8x64, entries_u8x64), high_i8x64);
            }
        }
    }
    const __m512i lower_i64x8 = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i upper_i64x8 = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
        _mm512_storeu_si512(sums[r], _mm512_permutex2var_epi64(low_i32x16[r], lower_i64x8, high_i32x16[r]));
        _mm512_storeu_si512(sums[r] + 16, _mm512_permutex2var_epi64(low_i32x16[r], upper_i64x8, high_i32x16[r]));
    }
}

void look_any(const uint8_t *const *tables, int64_t rows, const Segment *segments, int64_t count,
              int32_t (*sums)[kBlock]) {
    using Look = void (*)(const uint8_t *const *, const Segment *, int64_t, int32_t (*)[kBlock]);
    constexpr Look looks[kRows] = {look<1>, look<2>, look<3>, look<4>, look<5>, look<6>, look<7>, look<8>};
    looks[rows - 1](tables, segments, count, sums);
}

}  // namespace

const GradientKernels gradient_avx512{gradient_avx2.split,  gradient_avx2.build,   gradient_avx2.spread,
                                      look_any,             gradient_avx2.largest, gradient_avx2.round};

}  // namespace hypersign
