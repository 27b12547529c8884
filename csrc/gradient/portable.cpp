#include <cmath>
#include <cstring>

#include "gradient/gradient.hpp"

namespace hypersign {
namespace {

void split(const int8_t *from, int8_t (*q)[kBuild]) {
    for (int64_t i = 0; i < kNumbers * kBuild; ++i) q[i % kNumbers][i / kNumbers] = from[i];
}

void build(const int8_t *q, int64_t pitch, uint8_t *out, int64_t stride) {
    for (int64_t t = 0; t < kBuild; ++t)
        for (int i = 0; i < kTable; ++i) {
            const int8_t *four = q + (i < 8 ? 0 : 4) * pitch + t;
            int sum = kTableBias + four[0];
            for (int j = 1; j < 4; ++j) sum += i >> (j - 1) & 1 ? -four[j * pitch] : four[j * pitch];
            out[t * stride + i] = static_cast<uint8_t>(sum);
        }
}

void spread(const uint32_t *words, uint8_t *out, int32_t *signs) {
    for (int64_t c = 0; c < kBlock; ++c)
        for (int k = 0; k < 4; ++k) {
            int index = 0;
            for (int j = 1; j < 4; ++j) index |= static_cast<int>(words[4 * j + k] >> c & 1) << (j - 1);
            const bool negative = words[k] >> c & 1;
            uint8_t *to = out + k / 2 * kIndices + 2 * c + k % 2;
            to[0] = static_cast<uint8_t>((negative ? index ^ 7 : index) + 8 * (k % 2));
            to[2 * kBlock] = static_cast<uint8_t>(negative ? -1 : 1);
            signs[c] += negative ? -1 : 1;
        }
}

void look(const uint8_t *const *tables, int64_t rows, const Segment *segments, int64_t count, int32_t (*sums)[kBlock]) {
    for (int64_t r = 0; r < rows; ++r)
        for (const Segment *s = segments; s < segments + count; ++s)
            for (int64_t t = 0; t < s->tables; ++t) {
                const uint8_t *table = tables[r] + s->offset + t * kTable, *index = s->indices + t * kIndices;
                for (int64_t i = 0; i < 2 * kBlock; ++i)
                    sums[r][i / 2] += static_cast<int8_t>(index[2 * kBlock + i]) * table[index[i]];
            }
}

void add(const int8_t *q, int64_t n, int32_t *sums) {
    for (int64_t i = 0; i < n; ++i) sums[i] += q[i];
}

void write(const int32_t *sums, const int32_t *bias, float scale, uint32_t inside, int64_t channels, bool,
           float *out) {
    for (int64_t c = 0; c < channels; ++c)
        out[c] = inside >> c & 1 ? static_cast<float>(sums[c] - bias[c]) * scale : 0.0f;
}

int32_t largest(const float *x, int64_t n, int64_t width, int32_t *columns) {
    int32_t most = 0;
    for (int64_t i = 0; i < n; i += width)
        for (int64_t j = 0; j < width; ++j) {
            int32_t bits;
            std::memcpy(&bits, x + i + j, 4);
            bits &= 0x7fffffff;
            if (bits > columns[j]) columns[j] = bits;
            if (bits > most) most = bits;
        }
    return most;
}

int8_t clipped(float x) {
    x = std::floor(x);
    x = x > -31.0f ? x : -31.0f;  // also where x is NaN, whose scale tells
    return static_cast<int8_t>(x < 31.0f ? x : 31.0f);
}

void round(const float *x, int64_t n, int64_t width, float a, const float *b, uint32_t *state, int8_t *by_image,
           int8_t *by_filter) {
    constexpr float kUnit = 1.0f / 65536;
    for (int64_t i = 0, column = 0; i < n; ++i) {
        uint32_t &s = state[column % 8];
        s ^= s << 13;
        s ^= s >> 17;
        s ^= s << 5;
        by_image[i] = clipped(x[i] * a + static_cast<float>(s & 0xffff) * kUnit);
        by_filter[i] = clipped(x[i] * b[column] + static_cast<float>(s >> 16) * kUnit);
        if (++column == width) {
            // Registers of eight are filled anew in every row: the lanes that a short one leaves out move on too.
            for (int64_t lane = width % 8; lane && lane < 8; ++lane) {
                uint32_t &rest = state[lane];
                rest ^= rest << 13;
                rest ^= rest >> 17;
                rest ^= rest << 5;
            }
            column = 0;
        }
    }
}

}  // namespace

const GradientKernels gradient_portable{split, build, spread, look, add, write, largest, round};

}  // namespace hypersign
