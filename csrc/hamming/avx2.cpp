// One code in each 64-bit lane. A byte's ones are looked up, half by half (Mula); counts stay bytes for up to 31
// words, whose 31 * 8 ones still fit, and are then added up across each lane at once.
#include <immintrin.h>

#include "hamming/hamming.hpp"

namespace hypersign {
namespace {

constexpr int64_t CODES = 16;  // in four registers

// Block: for every 16 codes, for every word, the 16 words.
void layout(const uint64_t *codes, int64_t count, int64_t words, uint64_t *block) {
    for (int64_t group = 0; group < count; group += CODES, codes += CODES * words, block += CODES * words)
        for (int64_t word = 0; word < words; ++word)
            for (int64_t i = 0; i < CODES; ++i)
                block[word * CODES + i] = group + i < count ? codes[i * words + word] : 0;
}

int64_t nearer(const uint64_t *block, int64_t count, const uint64_t *query, int64_t words, int32_t limit,
               uint32_t *positions, int32_t *distances) {
    const __m256i ones_u8x32 = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                                0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i half_u8x32 = _mm256_set1_epi8(0x0F);
    const __m256i zero = _mm256_setzero_si256();
    int64_t found = 0;
    for (int64_t group = 0; group < count; group += CODES) {
        __m256i sum_u64x4[4] = {zero, zero, zero, zero};
        for (int64_t start = 0; start < words; start += 31) {
            const int64_t end = words < start + 31 ? words : start + 31;
            __m256i bytes_u8x32[4] = {zero, zero, zero, zero};
            for (int64_t word = start; word < end; ++word, block += CODES) {
                const __m256i query_u64x4 = _mm256_set1_epi64x(static_cast<int64_t>(query[word]));
                for (int part = 0; part < 4; ++part) {
                    const __m256i codes_u64x4 =
                        _mm256_loadu_si256(reinterpret_cast<const __m256i *>(block + 4 * part));
                    const __m256i difference = _mm256_xor_si256(query_u64x4, codes_u64x4);
                    const __m256i lower_u8x32 = _mm256_and_si256(difference, half_u8x32);
                    const __m256i upper_u8x32 = _mm256_and_si256(_mm256_srli_epi16(difference, 4), half_u8x32);
                    bytes_u8x32[part] = _mm256_add_epi8(
                        bytes_u8x32[part], _mm256_add_epi8(_mm256_shuffle_epi8(ones_u8x32, lower_u8x32),
                                                           _mm256_shuffle_epi8(ones_u8x32, upper_u8x32)));
                }
            }
            for (int part = 0; part < 4; ++part)
                sum_u64x4[part] = _mm256_add_epi64(sum_u64x4[part], _mm256_sad_epu8(bytes_u8x32[part], zero));
        }
        const __m256i limit_i64x4 = _mm256_set1_epi64x(limit);
        uint32_t near = 0;
        for (int part = 0; part < 4; ++part) {
            const __m256i near_i64x4 = _mm256_cmpgt_epi64(limit_i64x4, sum_u64x4[part]);
            near |= static_cast<uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(near_i64x4))) << (4 * part);
        }
        if (count - group < CODES) near &= (1u << (count - group)) - 1;
        if (near == 0) continue;
        alignas(32) uint64_t sums[CODES];
        for (int part = 0; part < 4; ++part)
            _mm256_store_si256(reinterpret_cast<__m256i *>(sums + 4 * part), sum_u64x4[part]);
        for (; near != 0; near &= near - 1) {
            const int i = __builtin_ctz(near);
            positions[found] = static_cast<uint32_t>(group + i);
            distances[found++] = static_cast<int32_t>(sums[i]);
        }
    }
    return found;
}

}  // namespace

const HammingKernels hamming_avx2{layout, nearer};

}  // namespace hypersign
