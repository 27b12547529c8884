// Sixteen registers hold the costs of four queries by 256 rows: eight loads for sixteen lookups.
#include <algorithm>

#include "levels/registers.hpp"
#include "levels/pruning.hpp"

namespace hypersign {
namespace {

constexpr int64_t kPart = 64;  // lookups, whose costs of all queries stay in the first cache
constexpr auto kFour = std::make_integer_sequence<int, 4>();

void signs(const LevelTile &tile, const uint8_t *used, int64_t lookups, uint8_t *indices, int32_t *absolutes,
           int32_t *squares) {
    const __m512i zero = _mm512_set1_epi8(static_cast<char>(tile.zero)), one = _mm512_set1_epi8(1);
    const __m512i first_weights = _mm512_set1_epi32(0x08040201), second_weights = _mm512_slli_epi32(first_weights, 4);
    const __m512i six = _mm512_set1_epi32(63);
    const uint8_t *x = tile.block;
    for (int64_t group = 0; group < tile.groups; ++group) {
        uint8_t *to = indices + group / 4 * lookups * 64 + group % 4 * 16;
        __m512i absolute = _mm512_setzero_si512(), square = absolute;
        const auto step_signs = [&](int64_t step) {
            const __m512i bytes = _mm512_loadu_si512(x + 64 * step);
            int32_t four;
            __builtin_memcpy(&four, used + 4 * step, 4);
            const __m512i larger = _mm512_max_epu8(bytes, zero), smaller = _mm512_min_epu8(bytes, zero);
            const __m512i size = _mm512_and_si512(_mm512_sub_epi8(larger, smaller), _mm512_set1_epi32(four));
            absolute = _mm512_dpbusd_epi32(absolute, size, one);
            square = _mm512_dpbusd_epi32(square, size, size);
            return _mm512_maskz_mov_epi8(_mm512_cmpgt_epu8_mask(bytes, zero), one);
        };
        for (int64_t step = 0; step < tile.steps; step += 3, to += 128) {
            const __m512i none = _mm512_setzero_si512();
            __m512i twelve = _mm512_dpbusd_epi32(none, first_weights, step_signs(step));
            if (step + 1 < tile.steps) twelve = _mm512_dpbusd_epi32(twelve, second_weights, step_signs(step + 1));
            if (step + 2 < tile.steps) {
                const __m512i four = _mm512_dpbusd_epi32(none, first_weights, step_signs(step + 2));
                twelve = _mm512_or_si512(twelve, _mm512_slli_epi32(four, 8));
            }
            const __m512i low = _mm512_and_si512(twelve, six), high = _mm512_srli_epi32(twelve, 6);
            _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm512_cvtepi32_epi8(low));
            _mm_storeu_si128(reinterpret_cast<__m128i *>(to + 64), _mm512_cvtepi32_epi8(high));
        }
        _mm512_storeu_si512(absolutes + 16 * group, absolute);
        _mm512_storeu_si512(squares + 16 * group, square);
        x += 64 * tile.steps;
    }
}

float largest(__m512 x) {
    float numbers[16];
    _mm512_storeu_ps(numbers, x);
    return *std::max_element(numbers, numbers + 16);
}

void weigh(const PruningRows &rows) {
    const __m512 ratio = _mm512_set1_ps(rows.ratio), most = _mm512_set1_ps(kPruningMost), zero = _mm512_setzero_ps();
    __m512 most_product = zero, most_offset = zero;
    for (int64_t i = 0; i < rows.count; i += 16) {
        const __m512 absolute = _mm512_cvtepi32_ps(_mm512_loadu_si512(rows.absolutes + i));
        const __m512 square = _mm512_cvtepi32_ps(_mm512_loadu_si512(rows.squares + i));
        const __m512 a = _mm512_loadu_ps(rows.a + i), weight = _mm512_div_ps(_mm512_mul_ps(ratio, absolute), square);
        __m512 product = _mm512_div_ps(weight, _mm512_sub_ps(zero, a));
        __m512 offset = _mm512_mul_ps(product, _mm512_loadu_ps(rows.b + i));
        const __mmask16 fits = _mm512_cmp_ps_mask(a, zero, _CMP_LT_OQ) & _mm512_cmp_ps_mask(product, most, _CMP_LE_OQ) &
                               _mm512_cmp_ps_mask(_mm512_abs_ps(offset), most, _CMP_LE_OQ);
        product = _mm512_maskz_mov_ps(fits, product);
        offset = _mm512_maskz_mov_ps(fits, offset);
        const auto always = static_cast<uint16_t>(~fits);
        __builtin_memcpy(reinterpret_cast<char *>(rows.always) + i / 8, &always, 2);
        most_product = _mm512_max_ps(most_product, product);
        most_offset = _mm512_max_ps(most_offset, _mm512_abs_ps(offset));
        _mm512_storeu_ps(rows.product + i, product);
        _mm512_storeu_ps(rows.offset + i, offset);
    }
    rows.largest[0] = largest(most_product);
    rows.largest[1] = largest(most_offset);
    const auto narrow = [&](const float *from, float largest, int16_t *to) {
        const __m512 scale = _mm512_set1_ps(largest > 0 ? 32767 / largest : 0);
        for (int64_t i = 0; i < rows.count; i += 16) {
            const __m256i words =
                _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(from + i), scale)));
            int16_t *first = to + i / 64 * 64 + pruning_place(i % 64);
            _mm_storeu_si128(reinterpret_cast<__m128i *>(first), _mm256_castsi256_si128(words));
            _mm_storeu_si128(reinterpret_cast<__m128i *>(first + 32), _mm256_extracti128_si256(words, 1));
        }
    };
    narrow(rows.product, rows.largest[0], rows.products);
    narrow(rows.offset, rows.largest[1], rows.offsets);
}

// Costs are sixteenths of a byte until they are rounded.
void costs(const int8_t *numbers, int64_t lookups, float scale, uint8_t *to) {
    constexpr uint32_t kBits[5] = {0xAAAAAAAA, 0xCCCCCCCC, 0xF0F0F0F0, 0xFF00FF00, 0xFFFF0000};  // of the index
    const __m512i order = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
    const __m256 sixteenths = _mm256_set1_ps(16 * scale), most = _mm256_set1_ps(8160);
    for (; lookups > 0; --lookups, numbers += 6, to += 64) {
        int64_t eight = 0;
        __builtin_memcpy(&eight, numbers, 6);
        const __m256i signed_numbers = _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(eight));
        const __m256 sizes = _mm256_cvtepi32_ps(_mm256_abs_epi32(signed_numbers));
        const __m256 costs = _mm256_min_ps(_mm256_mul_ps(sizes, sixteenths), most);
        const __m128i more = _mm256_cvtsepi32_epi16(_mm256_cvtps_epi32(costs));
        const auto negative = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(signed_numbers)));
        __m512i five = _mm512_set1_epi16(8);
        const __m512i every = _mm512_castsi128_si512(more);
        each(std::make_integer_sequence<int, 5>(), [&](auto i) HYPERSIGN_UNROLLED {
            const uint32_t positive = (negative >> i & 1) - 1;
            const __m512i cost = _mm512_permutexvar_epi16(_mm512_set1_epi16(i), every);
            five = _mm512_mask_adds_epu16(five, kBits[i] ^ positive, five, cost);
        });
        const __m512i last = _mm512_permutexvar_epi16(_mm512_set1_epi16(5), every);
        const __m512i without = _mm512_maskz_mov_epi16((negative >> 5 & 1) - 1, last);
        const __m512i low = _mm512_adds_epu16(five, without);
        const __m512i high = _mm512_adds_epu16(five, _mm512_sub_epi16(last, without));
        const __m512i bytes = _mm512_packus_epi16(_mm512_srli_epi16(low, 4), _mm512_srli_epi16(high, 4));
        _mm512_storeu_si512(to, _mm512_permutexvar_epi64(order, bytes));
    }
}

// Sums of costs, up to 255. Compilers copy the sums of the intrinsic around.
HYPERSIGN_INLINE __m512i with_costs(__m512i sums, __m512i costs) {
#if defined(HYPERSIGN_REGISTER)
    return _mm512_adds_epu8(sums, costs);  // under an emulator
#else
    __asm__("vpaddusb %1, %0, %0" : "+v"(sums) : "v"(costs));
    return sums;
#endif
}

// Which rows of G groups pass, for each query and group, by the lookups from `first` to `last`, the last part. Parts
// before it leave their sums in `sums`.
template <int G>
HYPERSIGN_INLINE void pass(const LevelPruning &pruning, int64_t first_group, int64_t first, int64_t last,
                           uint64_t (&passed)[kPruningQueries][4]) {
    const auto groups = std::make_integer_sequence<int, G>();
    const int64_t group = pruning.lookups * 64;
    const uint8_t *x = pruning.indices + first_group * group;
    uint8_t *held = pruning.held + first_group * 64 * kPruningQueries;
    __m512i sums[kPruningQueries][G] = {};
    if (first > 0)
        each(groups, [&](auto g) HYPERSIGN_UNROLLED {
            each(kFour, [&](auto q) HYPERSIGN_UNROLLED { sums[q][g] = _mm512_loadu_si512(held + 64 * (4 * g + q)); });
        });
    for (int64_t at = first * 64; at < last * 64; at += 64) {
        __m512i indices[G];
        each(groups, [&](auto g) HYPERSIGN_UNROLLED { indices[g] = _mm512_loadu_si512(x + g * group + at); });
        each(kFour, [&](auto q) HYPERSIGN_UNROLLED {
            const __m512i costs = _mm512_loadu_si512(pruning.costs[q] + at);
            each(groups, [&](auto g) HYPERSIGN_UNROLLED {
                sums[q][g] = with_costs(sums[q][g], _mm512_permutexvar_epi8(indices[g], costs));
            });
        });
    }
    if (last < pruning.lookups) {
        each(groups, [&](auto g) HYPERSIGN_UNROLLED {
            each(kFour, [&](auto q) HYPERSIGN_UNROLLED { _mm512_storeu_si512(held + 64 * (4 * g + q), sums[q][g]); });
        });
        return;
    }
    each(groups, [&](auto g) HYPERSIGN_UNROLLED {
        const int64_t at = 64 * (first_group + g);
        const int16_t *products = pruning.products + at, *offsets = pruning.offsets + at;
        const __m512i low_products = _mm512_loadu_si512(products), high_products = _mm512_loadu_si512(products + 32);
        const __m512i low_offsets = _mm512_loadu_si512(offsets), high_offsets = _mm512_loadu_si512(offsets + 32);
        each(kFour, [&](auto q) HYPERSIGN_UNROLLED {
            const __m512i constant = _mm512_set1_epi16(pruning.constants[q]);
            const __m512i product_scale = _mm512_set1_epi16(pruning.product_scales[q]);
            const __m512i offset_scale = _mm512_set1_epi16(pruning.offset_scales[q]);
            const auto most = [&](__m512i product, __m512i offset) HYPERSIGN_UNROLLED {
                return _mm512_adds_epi16(_mm512_subs_epi16(constant, _mm512_mulhrs_epi16(offset, offset_scale)),
                                         _mm512_mulhrs_epi16(product, product_scale));
            };
            const __m512i limit =
                _mm512_packus_epi16(most(low_products, low_offsets), most(high_products, high_offsets));
            passed[q][g] = _mm512_cmple_epu8_mask(sums[q][g], limit) | pruning.always[first_group + g];
        });
    });
}

// Products of four packed rows. Levels of 1 and 2 bits are twice their digit, less the largest: there sums of digits
// suffice.
template <int bits>
HYPERSIGN_INLINE __m128i four_dots(const LevelPruning &pruning, const uint32_t *positions, const int8_t *numbers) {
    const __m128i small = _mm_loadu_si128(reinterpret_cast<const __m128i *>(pruning.table));
    const uint8_t *rows[4];
    each(kFour, [&](auto r) HYPERSIGN_UNROLLED { rows[r] = pruning.rows + int64_t{positions[r]} * pruning.pitch; });
    __m256i sums[4] = {};
    const auto digits_of = std::make_integer_sequence<int, 8 / bits>();
    int64_t at = 0;
    if (pruning.pitch >= 64) {
        const __m512i table = _mm512_broadcast_i32x4(small), mask = _mm512_set1_epi8((1 << bits) - 1);
        __m512i wide[4] = {};
        for (; at + 64 <= pruning.pitch; at += 64) {
            __m512i packed[4];
            each(kFour, [&](auto r) HYPERSIGN_UNROLLED { packed[r] = _mm512_loadu_si512(rows[r] + at); });
            each(digits_of, [&](auto digit) HYPERSIGN_UNROLLED {
                const __m512i y = _mm512_loadu_si512(numbers + digit * pruning.pitch + at);
                each(kFour, [&](auto r) HYPERSIGN_UNROLLED {
                    const __m512i digits = _mm512_and_si512(_mm512_srli_epi16(packed[r], digit * bits), mask);
                    wide[r] = with_products<__m512i>(wide[r], bits == 4 ? _mm512_shuffle_epi8(table, digits) : digits, y);
                });
            });
        }
        each(kFour, [&](auto r) HYPERSIGN_UNROLLED {
            sums[r] = _mm256_add_epi32(_mm512_castsi512_si256(wide[r]), _mm512_extracti64x4_epi64(wide[r], 1));
        });
    }
    if (at < pruning.pitch) {
        const __m256i table = _mm256_broadcastsi128_si256(small), mask = _mm256_set1_epi8((1 << bits) - 1);
        __m256i packed[4];
        each(kFour, [&](auto r) HYPERSIGN_UNROLLED { packed[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(rows[r] + at)); });
        each(digits_of, [&](auto digit) HYPERSIGN_UNROLLED {
            const __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(numbers + digit * pruning.pitch + at));
            each(kFour, [&](auto r) HYPERSIGN_UNROLLED {
                const __m256i digits = _mm256_and_si256(_mm256_srli_epi16(packed[r], digit * bits), mask);
                sums[r] = with_products<__m256i>(sums[r], bits == 4 ? _mm256_shuffle_epi8(table, digits) : digits, y);
            });
        });
    }
    const __m256i pairs[2] = {_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3])};
    const __m256i fours = _mm256_hadd_epi32(pairs[0], pairs[1]);
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
    return bits == 4 ? four : _mm_add_epi32(four, four);
}

// The wanted scores of `count` rows for query q.
template <int bits>
void score(const LevelPruning &pruning, const LevelScores &scores, int q, int64_t count) {
    const uint32_t *positions = pruning.passed;
    const __m512i zero = _mm512_set1_epi32(pruning.zero * pruning.sums[q]);
    const __m512 step = _mm512_set1_ps(scores.steps[q]), limit = _mm512_set1_ps(scores.limits[q]);
    int64_t at = q * scores.pitch;
    const int64_t start = at;
    for (; count > 0; count -= 16, positions += 16) {
        alignas(64) int32_t dots[16];
        each(kFour, [&](auto i) HYPERSIGN_UNROLLED {
            _mm_store_si128(reinterpret_cast<__m128i *>(dots + 4 * i),
                            four_dots<bits>(pruning, positions + 4 * i, pruning.numbers[q]));
        });
        const __m512i rows = _mm512_loadu_si512(positions);
        const __m512 a = _mm512_i32gather_ps(rows, scores.a, 4), b = _mm512_i32gather_ps(rows, scores.b, 4);
        const __m512 dot = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_load_si512(dots), zero));
        const __m512 found = _mm512_add_ps(_mm512_mul_ps(_mm512_mul_ps(dot, step), a), b);
        __mmask16 wanted = _mm512_cmp_ps_mask(found, limit, _CMP_NGE_UQ);
        if (count < 16) wanted = static_cast<__mmask16>(wanted & ((1 << count) - 1));
        _mm512_storeu_si512(scores.positions + at, _mm512_maskz_compress_epi32(wanted, rows));
        _mm512_storeu_ps(scores.scores + at, _mm512_maskz_compress_ps(wanted, found));
        at += __builtin_popcount(wanted);
    }
    scores.found[q] = at - start;
}

int64_t prune(const LevelPruning &pruning, const LevelScores &scores) {
    uint64_t passed[kPruningQueries][4];
    int64_t counts[kPruningQueries] = {};
    const int64_t pitch = scores.pitch;
    const auto keep = [&](int64_t group, int groups) {
        for (int q = 0; q < kPruningQueries; ++q)
            for (int g = 0; g < groups; ++g) {
                const auto row = static_cast<uint32_t>(64 * (group + g));
                uint32_t *to = pruning.passed + q * pitch + counts[q];
                uint64_t left = passed[q][g];
                const int number = __builtin_popcountll(left);
                counts[q] += number;
                // Four whether they are there or not: the processor cannot guess their number.
                for (int i = 0; i < 4; ++i, left &= left - 1)
                    to[i] = row + static_cast<uint32_t>(__builtin_ctzll(left | uint64_t{1} << 63));
                for (int i = 4; i < number; ++i, left &= left - 1)
                    to[i] = row + static_cast<uint32_t>(__builtin_ctzll(left));
            }
    };
    for (int64_t first = 0, last; first < pruning.lookups; first = last) {
        last = std::min(first + kPart, pruning.lookups);
        const int kept = last < pruning.lookups ? 0 : 1;
        int64_t group = 0;
        for (; group + 4 <= pruning.groups; group += 4) {
            pass<4>(pruning, group, first, last, passed);
            keep(group, 4 * kept);
        }
        for (; group < pruning.groups; ++group) {
            pass<1>(pruning, group, first, last, passed);
            keep(group, kept);
        }
    }
    for (int q = 0; q < kPruningQueries; ++q) {
        LevelPruning own = pruning;
        own.passed += q * pitch;
        int64_t count = counts[q];
        while (count > 0 && own.passed[count - 1] >= scores.count) --count;  // rows that fill the last group
        for (int64_t i = count; i % 16 != 0; ++i) own.passed[i] = own.passed[count - 1];
        switch (pruning.bits) {
            case 1: score<1>(own, scores, q, count); break;
            case 2: score<2>(own, scores, q, count); break;
            default: score<4>(own, scores, q, count);
        }
    }
    return counts[0] + counts[1] + counts[2] + counts[3];
}

}  // namespace

const PruningKernels pruning_avx512{signs, weigh, costs, prune};

}  // namespace hypersign
