// The tiles of a scan: a block of queries and a share of the rows, so that one query keeps all threads busy too.
#pragma once
#include <algorithm>
#include <cstdint>

#include "integers.hpp"
#include "parallel.hpp"

namespace hypersign {

struct Tiles {
    static constexpr int64_t kShare = 1 << 12;  // rows worth a tile of their own

    int64_t query_count, row_count;
    int threads;
    int64_t queries, blocks, shares;

    Tiles(int64_t query_count, int64_t row_count, int threads, int64_t queries)
        : query_count(query_count), row_count(row_count), threads(threads), queries(queries),
          blocks(ceil_div(query_count, queries)) {
        const int64_t wanted = threads > 1 ? ceil_div(4 * threads, std::max<int64_t>(blocks, 1)) : 1;
        shares = std::max<int64_t>(1, std::min(wanted, row_count / kShare));
    }

    // work(first query, last query, share, first row, last row)
    template <class Work>
    void run(const Work &work) const {
        parallel_for(blocks * shares, threads, [&](int64_t first, int64_t last) {
            for (int64_t tile = first; tile < last; ++tile) {
                const int64_t block = tile / shares, share = tile % shares;
                work(block * queries, std::min((block + 1) * queries, query_count), share, row_count * share / shares,
                     row_count * (share + 1) / shares);
            }
        });
    }
};

}  // namespace hypersign
