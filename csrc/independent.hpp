// HYPERSIGN_INDEPENDENT before a loop says that no number depends on one before it: where output and input are the same
// array, the compiler cannot know.
#pragma once

#if defined(__clang__)
#define HYPERSIGN_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define HYPERSIGN_INDEPENDENT _Pragma("GCC ivdep")
#else
#define HYPERSIGN_INDEPENDENT
#endif
