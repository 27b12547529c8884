// One code in each byte. Four bits of 32 codes and four of the query differ in as many bits as a table of 16 bytes
// says, which is the shuffle's operand: two instructions, a shuffle and a sum, for 128 bits. So a block holds four
// bits per byte, twice the size of its codes, and 128 codes share the load of a table. A limit that fits a byte is
// counted down from, and stays at 0, however long the codes: what is left tells who is near. With a greater one
// counts stay bytes for up to 3 words, whose 192 ones still fit, then 16 bits for up to 1,023, then are added up in
// memory.
#include <immintrin.h>

#include <algorithm>

#include "hamming/hamming.hpp"

namespace hypersign {
namespace {

constexpr int64_t kCodes = 128;  // in four registers
constexpr int64_t kByteWords = 3;
constexpr int64_t kShortWords = 1023;

// ones.of[q]: how many bits of q differ from 0 to 15, twice over.
struct Ones {
    alignas(32) uint8_t of[16][32];
    constexpr Ones() : of() {
        for (int q = 0; q < 16; ++q)
            for (int v = 0; v < 32; ++v)
                for (int x = (q ^ v) & 15; x != 0; x &= x - 1) ++of[q][v];
    }
};
constexpr Ones ones;

// Block: for every 128 codes, for every word, for each of its 16 parts of four bits, the low ones first, 128 bytes.
void layout(const uint64_t *codes, int64_t count, int64_t words, uint64_t *block) {
    const __m128i low_u8x16 = _mm_set1_epi8(0x0F);
    auto *bytes = reinterpret_cast<uint8_t *>(block);
    for (int64_t group = 0; group < count; group += kCodes) {
        for (int64_t word = 0; word < words; ++word, bytes += 16 * kCodes) {
            for (int64_t i = 0; i < kCodes; i += 8) {
                __m128i row[8];
                for (int64_t j = 0; j < 8; ++j) {
                    const int64_t code = group + i + j;
                    row[j] = code < count
                                 ? _mm_loadl_epi64(reinterpret_cast<const __m128i *>(codes + code * words + word))
                                 : _mm_setzero_si128();
                }
                // Rows of 8 bytes become columns: two bytes of eight codes in each register.
                __m128i pairs[4], fours[4];
                for (int j = 0; j < 4; ++j) pairs[j] = _mm_unpacklo_epi8(row[2 * j], row[2 * j + 1]);
                for (int j = 0; j < 2; ++j) {
                    fours[j] = _mm_unpacklo_epi16(pairs[2 * j], pairs[2 * j + 1]);
                    fours[2 + j] = _mm_unpackhi_epi16(pairs[2 * j], pairs[2 * j + 1]);
                }
                const __m128i eights[4] = {
                    _mm_unpacklo_epi32(fours[0], fours[1]), _mm_unpackhi_epi32(fours[0], fours[1]),
                    _mm_unpacklo_epi32(fours[2], fours[3]), _mm_unpackhi_epi32(fours[2], fours[3])};
                for (int j = 0; j < 4; ++j) {
                    const __m128i lower = _mm_and_si128(eights[j], low_u8x16);
                    const __m128i upper = _mm_and_si128(_mm_srli_epi16(eights[j], 4), low_u8x16);
                    const __m128i parts[4] = {lower, upper, _mm_unpackhi_epi64(lower, lower),
                                              _mm_unpackhi_epi64(upper, upper)};
                    for (int part = 0; part < 4; ++part)
                        _mm_storel_epi64(reinterpret_cast<__m128i *>(bytes + (4 * j + part) * kCodes + i), parts[part]);
                }
            }
        }
    }
}

// Adds to the bytes of 128 codes the bits in which words `start` to `end` differ from the query's, or takes them off.
template <bool down>
inline const __m256i *count_words(const __m256i *block, const uint64_t *query, int64_t start, int64_t end,
                                  __m256i bytes_u8x32[4]) {
    __m256i sums_u8x32[4] = {bytes_u8x32[0], bytes_u8x32[1], bytes_u8x32[2], bytes_u8x32[3]};
    for (int64_t word = start; word < end; ++word) {
        const uint64_t bits = query[word];
#pragma GCC unroll 16
        for (int part = 0; part < 16; ++part, block += 4) {
            const __m256i table_u8x32 =
                _mm256_load_si256(reinterpret_cast<const __m256i *>(ones.of[(bits >> (4 * part)) & 15]));
            for (int j = 0; j < 4; ++j) {
                const __m256i ones_u8x32 = _mm256_shuffle_epi8(table_u8x32, _mm256_loadu_si256(block + j));
                sums_u8x32[j] = down ? _mm256_subs_epu8(sums_u8x32[j], ones_u8x32)
                                     : _mm256_add_epi8(sums_u8x32[j], ones_u8x32);
                __asm__("" : "+x"(sums_u8x32[j]));  // else compilers add shuffles in pairs, and run out of registers
            }
        }
    }
    for (int j = 0; j < 4; ++j) bytes_u8x32[j] = sums_u8x32[j];
    return block;
}

// Writes the codes of a group that are near by the bits of `near`, 64 codes each.
template <class Count>
int64_t write_near(const uint64_t near[2], const Count *counts, int64_t group, int64_t left, uint32_t *positions,
                   int32_t *distances) {
    int64_t found = 0;
    for (int64_t half = 0; half < 2 && 64 * half < left; ++half) {
        uint64_t mask = near[half];
        if (left - 64 * half < 64) mask &= (uint64_t{1} << (left - 64 * half)) - 1;
        for (; mask != 0; mask &= mask - 1) {
            const int64_t i = 64 * half + __builtin_ctzll(mask);
            positions[found] = static_cast<uint32_t>(group + i);
            distances[found++] = static_cast<int32_t>(counts[i]);
        }
    }
    return found;
}

int64_t nearer_than_byte(const __m256i *block, int64_t count, const uint64_t *query, int64_t words, int32_t limit,
                         uint32_t *positions, int32_t *distances) {
    const __m256i limit_u8x32 = _mm256_set1_epi8(static_cast<char>(limit));
    int64_t found = 0;
    for (int64_t group = 0; group < count; group += kCodes) {
        __m256i left_u8x32[4] = {limit_u8x32, limit_u8x32, limit_u8x32, limit_u8x32};
        block = count_words<true>(block, query, 0, words, left_u8x32);
        uint64_t far[2] = {0, 0};
        for (int j = 0; j < 4; ++j) {
            const __m256i far_u8x32 = _mm256_cmpeq_epi8(left_u8x32[j], _mm256_setzero_si256());
            far[j / 2] |= uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(far_u8x32))} << (32 * (j % 2));
        }
        if ((far[0] & far[1]) == ~uint64_t{0}) continue;
        alignas(32) uint8_t counts[kCodes];
        for (int j = 0; j < 4; ++j)
            _mm256_store_si256(reinterpret_cast<__m256i *>(counts) + j, _mm256_sub_epi8(limit_u8x32, left_u8x32[j]));
        const uint64_t near[2] = {~far[0], ~far[1]};
        found += write_near(near, counts, group, count - group, positions + found, distances + found);
    }
    return found;
}

int64_t nearer(const uint64_t *codes, int64_t count, const uint64_t *query, int64_t words, int32_t limit,
               uint32_t *positions, int32_t *distances) {
    const auto *block = reinterpret_cast<const __m256i *>(codes);
    if (limit <= 0) return 0;
    if (limit <= 255 || words <= kByteWords)
        return nearer_than_byte(block, count, query, words, std::min(limit, 255), positions, distances);
    const __m256i zero = _mm256_setzero_si256();
    const __m256i limit_u16x16 = _mm256_set1_epi16(static_cast<short>(std::min(limit, 65535)));
    int64_t found = 0;
    for (int64_t group = 0; group < count; group += kCodes) {
        // Even registers hold the codes that unpacking takes from the lower halves of each lane, odd ones the others.
        __m256i sums_u16x16[8] = {};
        uint32_t counts[kCodes] = {};
        for (int64_t start = 0; start < words; start += kShortWords) {
            const int64_t end = std::min(words, start + kShortWords);
            for (__m256i &sum : sums_u16x16) sum = zero;
            for (int64_t first = start; first < end; first += kByteWords) {
                __m256i bytes_u8x32[4] = {};
                block = count_words<false>(block, query, first, std::min(end, first + kByteWords), bytes_u8x32);
                for (int j = 0; j < 4; ++j) {
                    sums_u16x16[2 * j] =
                        _mm256_add_epi16(sums_u16x16[2 * j], _mm256_unpacklo_epi8(bytes_u8x32[j], zero));
                    sums_u16x16[2 * j + 1] =
                        _mm256_add_epi16(sums_u16x16[2 * j + 1], _mm256_unpackhi_epi8(bytes_u8x32[j], zero));
                }
            }
            if (words <= kShortWords) {
                uint64_t far[2] = {0, 0};
                for (int j = 0; j < 4; ++j) {
                    __m256i far_u16x16[2];
                    for (int half = 0; half < 2; ++half)
                        far_u16x16[half] =
                            _mm256_cmpeq_epi16(_mm256_subs_epu16(limit_u16x16, sums_u16x16[2 * j + half]), zero);
                    const __m256i far_u8x32 = _mm256_packs_epi16(far_u16x16[0], far_u16x16[1]);
                    far[j / 2] |= uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(far_u8x32))} << (32 * (j % 2));
                }
                if ((far[0] & far[1]) == ~uint64_t{0}) break;
            }
            alignas(32) uint16_t part[kCodes];
            for (int j = 0; j < 4; ++j) {
                const __m256i lower = sums_u16x16[2 * j], upper = sums_u16x16[2 * j + 1];
                auto *to = reinterpret_cast<__m256i *>(part + 32 * j);
                _mm256_store_si256(to, _mm256_permute2x128_si256(lower, upper, 0x20));
                _mm256_store_si256(to + 1, _mm256_permute2x128_si256(lower, upper, 0x31));
            }
            for (int64_t i = 0; i < kCodes; ++i) counts[i] += part[i];
            if (end < words) continue;
            uint64_t near[2] = {0, 0};
            for (int64_t i = 0; i < kCodes; ++i)
                near[i / 64] |= uint64_t{static_cast<int64_t>(counts[i]) < limit} << (i % 64);
            found += write_near(near, counts, group, count - group, positions + found, distances + found);
        }
    }
    return found;
}

}  // namespace

const HammingKernels hamming_avx2{layout, nearer, 2};

}  // namespace hypersign
