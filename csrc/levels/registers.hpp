// For kernels of AVX-512 whose sums must stay in registers.
#pragma once
#include <utility>

#include "avx512.hpp"
#include "inline.hpp"

// For the functions of `each`.
#define HYPERSIGN_UNROLLED __attribute__((always_inline))

namespace hypersign {
namespace {

// Calls f(0), f(1) and so on with constants, so that arrays become registers.
template <class F, int... i>
HYPERSIGN_INLINE void each(std::integer_sequence<int, i...>, const F &f) {
    (f(std::integral_constant<int, i>()), ...);
}

// Sums with the products of four bytes added to each. Compilers copy the sums of the intrinsic around, and into memory.
template <class Register>
HYPERSIGN_INLINE Register with_products(Register sums, Register x, Register numbers) {
#if defined(HYPERSIGN_REGISTER)
    if constexpr (sizeof(Register) == 32)
        return _mm256_dpbusd_epi32(sums, x, numbers);  // under an emulator
    else
        return _mm512_dpbusd_epi32(sums, x, numbers);
#else
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(x), "v"(numbers));
    return sums;
#endif
}

}  // namespace
}  // namespace hypersign
