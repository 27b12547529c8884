// For what must be inlined: vectors that are handed from function to function stay in registers.
#pragma once

#define HYPERSIGN_INLINE inline __attribute__((always_inline))
