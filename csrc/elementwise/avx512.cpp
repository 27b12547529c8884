// Levels with AVX-512: a comparison gives the bits of 16 numbers; see elementwise.hpp.

#include "avx512.hpp"
#include "elementwise/loops.hpp"

namespace hypersign {
namespace {

struct Local {
    static uint32_t below(const float *x, const float *limit, bool &unordered) {
        const __m512 x_f32x16 = _mm512_loadu_ps(x), limit_f32x16 = _mm512_loadu_ps(limit);
        unordered |= _mm512_cmp_ps_mask(x_f32x16, x_f32x16, _CMP_UNORD_Q) != 0;
        return _mm512_cmp_ps_mask(x_f32x16, limit_f32x16, _CMP_LT_OQ);
    }
};

// Parameters of 16 channels.
struct Sixteen {
    __m512 scale, shift, rprelu[6], low;
};

template <bool Rprelu, bool Levels>
inline Sixteen parameters(const ResidualTask &task, int64_t at) {
    Sixteen of;
    of.scale = _mm512_loadu_ps(task.scale + at);
    of.shift = _mm512_loadu_ps(task.shift + at);
    for (int i = 0; i < (Rprelu ? 6 : 0); ++i) of.rprelu[i] = _mm512_loadu_ps(task.rprelu[i] + at);
    if (Levels) of.low = _mm512_loadu_ps(task.low + at);
    return of;
}

// `Registers` of 16 channels, whose parameters stay in registers; 0 for any number of channels.
template <int Registers, bool Rprelu, bool Levels>
bool residual_registers(const ResidualTask &task) {
    Sixteen kept[Registers > 0 ? Registers : 1];
    for (int i = 0; i < Registers; ++i) kept[i] = parameters<Rprelu, Levels>(task, 16 * i);
    const int32_t *x = task.x;
    const float *other = task.other;
    float *y = task.y;
    uint64_t *sign = task.sign;
    const int64_t channels = task.channels;
    __mmask16 unordered = 0;
    const auto sixteen = [&](int64_t at, const Sixteen &of) __attribute__((always_inline)) {
        const auto affine = [](__m512 v, __m512 scale, __m512 shift) {
            return _mm512_add_ps(_mm512_mul_ps(v, scale), shift);
        };
        __m512 sum = _mm512_add_ps(affine(_mm512_cvtepi32_ps(_mm512_loadu_si512(x + at)), of.scale, of.shift),
                                   _mm512_loadu_ps(other + at));
        if constexpr (Rprelu) {
            const __m512 t = affine(sum, of.rprelu[0], of.rprelu[1]), zero = _mm512_setzero_ps();
            // Both give the second operand if one is NaN, or if both are zeros.
            sum = _mm512_add_ps(affine(_mm512_min_ps(zero, t), of.rprelu[4], of.rprelu[5]),
                                affine(_mm512_max_ps(zero, t), of.rprelu[2], of.rprelu[3]));
        }
        _mm512_storeu_ps(y + at, sum);
        if constexpr (!Levels) return uint64_t{0};
        unordered |= _mm512_cmp_ps_mask(sum, sum, _CMP_UNORD_Q);
        return static_cast<uint64_t>(_mm512_cmp_ps_mask(sum, of.low, _CMP_LT_OQ));
    };
    for (int64_t p = 0; p < task.pixels; ++p, x += task.x_stride, other += channels, y += channels) {
        if constexpr (Registers > 0) {
            uint64_t minus = 0;
#pragma GCC unroll 4
            for (int i = 0; i < Registers; ++i) minus |= sixteen(16 * i, kept[i]) << 16 * i;
            if (Levels) *sign++ = minus ^ task.flip[0];
        } else {
            for (int64_t start = 0; start < channels; start += 64) {
                uint64_t minus = 0;
                for (int64_t i = start; i < channels && i < start + 64; i += 16)
                    minus |= sixteen(i, parameters<Rprelu, Levels>(task, i)) << (i - start);
                if (Levels) *sign++ = minus ^ task.flip[start / 64];
            }
        }
    }
    return unordered != 0;
}

template <bool Rprelu, bool Levels>
bool residual_channels(const ResidualTask &task) {
    if (task.channels == 16) return residual_registers<1, Rprelu, Levels>(task);
    if (task.channels == 32) return residual_registers<2, Rprelu, Levels>(task);
    if (task.channels == 64 && !Rprelu) return residual_registers<4, Rprelu, Levels>(task);
    return residual_registers<0, Rprelu, Levels>(task);
}

bool residual(const ResidualTask &task) {
    if (task.rprelu[0]) return task.low ? residual_channels<true, true>(task) : residual_channels<true, false>(task);
    return task.low ? residual_channels<false, true>(task) : residual_channels<false, false>(task);
}

constexpr ElementwiseKernels kernels() {
    ElementwiseKernels made = ElementwiseLoops<Local>::kernels;
    made.residual = residual;
    return made;
}

}  // namespace

const ElementwiseKernels elementwise_avx512 = kernels();

}  // namespace hypersign
