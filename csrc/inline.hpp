// For functions that must be inlined, so that vectors passed between them stay in registers.
#pragma once

#define HYPERSIGN_INLINE inline __attribute__((always_inline))
