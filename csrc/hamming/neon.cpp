// One code in each 64-bit lane. The instruction set counts the ones of bytes; counts stay bytes for up to 31 words,
// whose 31 * 8 ones still fit, and are then added up across each lane.
#include <arm_neon.h>

#include "hamming/hamming.hpp"

namespace hypersign {
namespace {

constexpr int64_t kCodes = 8;  // in four registers

// Block: for every 8 codes, for every word, the 8 words.
void layout(const uint64_t *codes, int64_t count, int64_t words, uint64_t *block) {
    for (int64_t group = 0; group < count; group += kCodes, codes += kCodes * words, block += kCodes * words)
        for (int64_t word = 0; word < words; ++word)
            for (int64_t i = 0; i < kCodes; ++i)
                block[word * kCodes + i] = group + i < count ? codes[i * words + word] : 0;
}

int64_t nearer(const uint64_t *block, int64_t count, const uint64_t *query, int64_t words, int32_t limit,
               uint32_t *positions, int32_t *distances) {
    int64_t found = 0;
    for (int64_t group = 0; group < count; group += kCodes) {
        uint32x4_t sum_u32x4[2] = {vdupq_n_u32(0), vdupq_n_u32(0)};
        for (int64_t start = 0; start < words; start += 31) {
            const int64_t end = words < start + 31 ? words : start + 31;
            uint8x16_t bytes_u8x16[4] = {vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0)};
            for (int64_t word = start; word < end; ++word, block += kCodes) {
                const uint64x2_t query_u64x2 = vdupq_n_u64(query[word]);
                for (int part = 0; part < 4; ++part) {
                    const uint64x2_t difference = veorq_u64(query_u64x2, vld1q_u64(block + 2 * part));
                    bytes_u8x16[part] =
                        vaddq_u8(bytes_u8x16[part], vcntq_u8(vreinterpretq_u8_u64(difference)));
                }
            }
            for (int pair = 0; pair < 2; ++pair) {
                const uint32x4_t first_u32x4 = vpaddlq_u16(vpaddlq_u8(bytes_u8x16[2 * pair]));
                const uint32x4_t second_u32x4 = vpaddlq_u16(vpaddlq_u8(bytes_u8x16[2 * pair + 1]));
                sum_u32x4[pair] = vaddq_u32(sum_u32x4[pair], vpaddq_u32(first_u32x4, second_u32x4));
            }
        }
        const uint32_t least = vminvq_u32(vminq_u32(sum_u32x4[0], sum_u32x4[1]));
        if (static_cast<int32_t>(least) >= limit) continue;
        uint32_t sums[kCodes];
        vst1q_u32(sums, sum_u32x4[0]);
        vst1q_u32(sums + 4, sum_u32x4[1]);
        for (int64_t i = 0; i < kCodes && group + i < count; ++i)
            if (static_cast<int32_t>(sums[i]) < limit) {
                positions[found] = static_cast<uint32_t>(group + i);
                distances[found++] = static_cast<int32_t>(sums[i]);
            }
    }
    return found;
}

}  // namespace

const HammingKernels hamming_neon{layout, nearer, 1};

}  // namespace hypersign
