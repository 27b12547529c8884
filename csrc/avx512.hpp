// The intrinsics of AVX-512, without GCC 12's false warnings: it takes the undefined operand of its own unmasked
// intrinsics for a variable someone forgot to set.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
