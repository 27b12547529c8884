// A parallel-for over tiles of work.
#pragma once
#include <cstdint>
#include <functional>

namespace hypersign {

// Calls work(first, last) on disjoint ranges that cover [0, tiles), on `threads` threads, including the caller's.
// Threads fetch ranges when they are free, so a stalled thread does not delay the others.
void parallel_for(int64_t tiles, int threads, const std::function<void(int64_t, int64_t)> &work);

}  // namespace hypersign
