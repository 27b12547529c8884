// A parallel-for over tiles of work.
#pragma once
#include <cstdint>
#include <functional>

namespace hypersign {

// Calls work(first, last) on disjoint ranges that cover [0, tiles), on `threads` threads, the caller's among them.
// Ranges are handed out as threads become free, so a thread that the machine stalls does not hold up the others.
void parallel_for(int64_t tiles, int threads, const std::function<void(int64_t, int64_t)> &work);

}  // namespace hypersign
