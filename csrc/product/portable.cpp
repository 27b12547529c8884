// The product in plain C++: 16 filters side by side, so that compilers vectorise as far as the architecture's
// base instructions go.
#include "product/product.hpp"

#include "product/epilogue.hpp"

namespace hypersign {
namespace {

constexpr int kLanes = 16;

inline uint32_t popcount(uint32_t x) {
    x -= (x >> 1) & 0x55555555u;
    x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0fu;
    x += x >> 8;
    return (x + (x >> 16)) & 0x3fu;
}

template <bool TernaryX, bool TernaryW>
void pixel(const ProductTile &tile, int p) {
    uint32_t v[kLanes] = {};
    auto w = static_cast<const uint32_t *>(tile.weights);
    for (int64_t tap = 0; tap < tile.taps; ++tap) {
        const uint32_t *const *x = tile.x + tap * (1 + TernaryX) * kPixels + p;
        const uint32_t *sign = x[0] + tile.first_word;
        const uint32_t *nonzero = TernaryX ? x[kPixels] + tile.first_word : nullptr;
        for (int64_t k = 0; k < tile.words; ++k, w += (1 + TernaryW) * kLanes)
            for (int i = 0; i < kLanes; ++i) {
                uint32_t meet = ~0u;
                if (TernaryX) meet &= nonzero[k];
                if (TernaryW) meet &= w[kLanes + i];
                const uint32_t differ = (sign[k] ^ w[i]) & meet;
                v[i] += TernaryX ? 2 * popcount(differ) - popcount(meet) : popcount(differ);
            }
    }
    int32_t counts[kLanes];
    for (int i = 0; i < kLanes; ++i) counts[i] = static_cast<int32_t>(v[i]);
    epilogue(tile, p, counts, kLanes);
}

void run(const ProductTile &tile) {
    for (int p = 0; p < tile.pixels; ++p)
        tile.ternary_x ? tile.ternary_w ? pixel<true, true>(tile, p) : pixel<true, false>(tile, p)
        : tile.ternary_w ? pixel<false, true>(tile, p)
                         : pixel<false, false>(tile, p);
}

int64_t peak(int64_t rounds) {
    static volatile uint32_t seed = 1;
    uint32_t x = seed, w[kLanes], v[kLanes] = {};
    for (int i = 0; i < kLanes; ++i) w[i] = seed + i;
    for (int64_t round = 0; round < rounds; ++round, ++x)
        for (int i = 0; i < kLanes; ++i) v[i] += popcount(x ^ w[i]);
    for (int i = 0; i < kLanes; ++i) seed = v[i];
    return rounds * kLanes * 32;
}

}  // namespace

void pack_weights_by_word(const uint32_t *const *sign, const uint32_t *const *nonzero, int64_t words, int filters,
                   void *block) {
    auto out = static_cast<uint32_t *>(block);
    for (int64_t k = 0; k < words; ++k) {
        for (int i = 0; i < filters; ++i) *out++ = sign[i][k];
        if (nonzero)
            for (int i = 0; i < filters; ++i) *out++ = nonzero[i][k];
    }
}

const ProductKernels product_portable{kLanes, 1, 1, 64, 64, pack_weights_by_word, run, peak};

}  // namespace hypersign
