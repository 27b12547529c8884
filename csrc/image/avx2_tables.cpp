// Levels of a first layer with AVX2, by tables.
//
// A table holds the sums of three bytes of the image under each of the 8 choices of their signs, in 16 bits: 16
// bytes, from which a shuffle picks the sums of 16 filters. A table is made once, by two multiplications, for all
// filters and all pixels that read its bytes. So three taps of 16 filters are two instructions, a shuffle and an
// addition. Multiplied and added pairwise (image/avx2.cpp), four taps of 8 filters are two: half as many again per
// tap, besides gathering patches and adding pairs of lanes.
//
// Four pixels and 32 filters share a group's 64 bytes of picks: 8 shuffles, 8 additions and 6 loads. Shuffles run on
// two ports: 4 cycles for 384 multiply-accumulates, and nothing else takes as long.
//
// Instructions: Intel Intrinsics Guide; ports: uops.info, tables of VPSHUFB and VPMADDUBSW (YMM).
#include <immintrin.h>

#include <cstring>

#include "image/image.hpp"
#include "inline.hpp"

namespace hypersign {
namespace {

void tabulate(const uint8_t *line, int64_t count, int64_t step, int taps, uint8_t *tables) {
    // Bit t of an entry's number: whether byte t is subtracted.
    alignas(16) int8_t first[16], second[16];
    for (int entry = 0; entry < 8; ++entry)
        for (int t = 0; t < 2; ++t) {
            first[2 * entry + t] = static_cast<int8_t>(t < taps ? 1 - 2 * (entry >> t & 1) : 0);
            second[2 * entry + t] = static_cast<int8_t>(t + 2 < taps ? 1 - 2 * (entry >> 2 & 1) : 0);
        }
    const __m128i signs01 = _mm_load_si128(reinterpret_cast<const __m128i *>(first));
    const __m128i signs2 = _mm_load_si128(reinterpret_cast<const __m128i *>(second));
    for (int64_t i = 0; i < count; ++i, line += step, tables += kImageTable) {
        int16_t bytes01, bytes23;
        std::memcpy(&bytes01, line, 2);
        std::memcpy(&bytes23, line + 2, 2);
        _mm_storeu_si128(reinterpret_cast<__m128i *>(tables),
                         _mm_add_epi16(_mm_maddubs_epi16(_mm_set1_epi16(bytes01), signs01),
                                       _mm_maddubs_epi16(_mm_set1_epi16(bytes23), signs2)));
    }
}

// Accumulators of 32 filters and some pixels. Each is a member of its own, because the compiler would keep an array
// in memory.
template <int pixels>
struct Accumulators {
    __m256i first = _mm256_setzero_si256(), second = _mm256_setzero_si256();
    Accumulators<pixels - 1> rest;

    HYPERSIGN_INLINE void add(const uint8_t *table, int64_t step, const __m256i &picks0, const __m256i &picks1) {
        const __m256i sums = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(table)));
        first = _mm256_add_epi16(first, _mm256_shuffle_epi8(sums, picks0));
        second = _mm256_add_epi16(second, _mm256_shuffle_epi8(sums, picks1));
        __asm__("" : "+x"(first), "+x"(second));  // in place: the compiler would copy them around
        rest.add(table + step, step, picks0, picks1);
    }
};

template <>
struct Accumulators<0> {
    HYPERSIGN_INLINE void add(const uint8_t *, int64_t, const __m256i &, const __m256i &) {}
};

// The epilogue of a block of 32 filters: levels, half a word.
template <bool ternary>
class Levels {
   public:
    Levels(const ImageLookup &row, int64_t block)
        : row_(row), block_(block), words_(ceil_div(row.filters, 64)), blocks_(ceil_div(row.filters, kImageTableFilters)),
          not_flip_(~static_cast<uint32_t>(row.flip[block / 2] >> block % 2 * 32)),
          valid_(row.filters - block * 32 < 32 ? ~(~uint32_t{0} << (row.filters - block * 32)) : ~uint32_t{0}) {}

    template <int pixels>
    HYPERSIGN_INLINE void write(const Accumulators<pixels> &sums, int64_t pixel) const {
        const int16_t *bounds = row_.bounds[pixel] + block_ * 32;
        const uint32_t not_minus = above(sums, bounds);
        uint32_t valid = valid_;
        if (ternary) {
            valid &= ~not_minus | above(sums, bounds + blocks_ * 32);
            store(row_.nonzero, pixel, valid);
        }
        store(row_.sign, pixel, (not_minus ^ not_flip_) & valid);
        write(sums.rest, pixel + 1);
    }
    HYPERSIGN_INLINE void write(const Accumulators<0> &, int64_t) const {}

   private:
    template <int pixels>
    static HYPERSIGN_INLINE uint32_t above(const Accumulators<pixels> &sums, const int16_t *bounds) {
        auto at = reinterpret_cast<const __m256i *>(bounds);
        const __m256i both = _mm256_packs_epi16(_mm256_cmpgt_epi16(sums.first, _mm256_loadu_si256(at)),
                                                _mm256_cmpgt_epi16(sums.second, _mm256_loadu_si256(at + 1)));
        return static_cast<uint32_t>(_mm256_movemask_epi8(both));
    }
    HYPERSIGN_INLINE void store(uint64_t *plane, int64_t pixel, uint32_t levels) const {
        uint64_t *to = plane + pixel * words_ + block_ / 2;
        if (block_ % 2 == 0)
            *to = levels;  // the upper half, if there is one, is written after
        else
            std::memcpy(reinterpret_cast<uint8_t *>(to) + 4, &levels, sizeof levels);
    }

    const ImageLookup &row_;
    const int64_t block_, words_, blocks_;
    const uint32_t not_flip_, valid_;
};

template <int pixels, bool ternary>
HYPERSIGN_INLINE void look_up(const ImageLookup &row, const uint8_t *picks, int64_t pixel,
                              const Levels<ternary> &levels) {
    const int64_t from = pixel * row.step;
    auto at = reinterpret_cast<const __m256i *>(picks);
    Accumulators<pixels> sums;
    for (int64_t g = 0; g < row.groups; ++g, at += 2)
        sums.add(row.tables[g] + from, row.step, _mm256_loadu_si256(at), _mm256_loadu_si256(at + 1));
    levels.write(sums, pixel);
}

template <bool ternary>
void blocks(const ImageLookup &row) {
    const int64_t size = row.groups * kImageTableFilters * 2;
    for (int64_t block = 0; block * kImageTableFilters < row.filters; ++block) {
        const Levels<ternary> levels(row, block);
        const uint8_t *picks = row.picks + block * size;
        int64_t pixel = 0;
        for (; pixel + 4 <= row.pixels; pixel += 4) look_up<4>(row, picks, pixel, levels);
        for (; pixel < row.pixels; ++pixel) look_up<1>(row, picks, pixel, levels);
    }
}

void image_row(const ImageLookup &row) { row.nonzero == nullptr ? blocks<false>(row) : blocks<true>(row); }

}  // namespace

const ImageTables image_tables_avx2{tabulate, image_row};

}  // namespace hypersign
