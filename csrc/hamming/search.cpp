#include <algorithm>
#include <cstring>
#include <limits>

#include "hamming/hamming.hpp"
#include "integers.hpp"
#include "tiles.hpp"

namespace hypersign {
namespace {

constexpr int64_t kQueries = 128;     // compared with a block before the next is laid out
constexpr int64_t kBytes = 1 << 14;   // of a block: half of the smallest first cache
constexpr int kIndexBits = 40;       // of a key: distance, then index, so that keys order as results do

uint64_t key(int32_t distance, int64_t index) {
    return static_cast<uint64_t>(distance) << kIndexBits | static_cast<uint64_t>(index);
}
int32_t distance_of(uint64_t key) { return static_cast<int32_t>(key >> kIndexBits); }
int64_t index_of(uint64_t key) { return static_cast<int64_t>(key & ((uint64_t{1} << kIndexBits) - 1)); }

// Vectors that begin inside a cache line would cost two reads each.
struct alignas(64) CacheLine {
    uint64_t words[8];
};

// Memory for a block of codes and for the codes found in it.
struct Block {
    const HammingTask &task;
    const HammingKernels &kernels;
    int64_t words, capacity;
    std::vector<CacheLine> lines;
    uint64_t *codes;
    std::vector<uint32_t> positions;
    std::vector<int32_t> distances;
    int64_t first = 0;               // code of the block, where all are allowed
    std::vector<uint64_t> gathered;  // else the allowed codes, and
    std::vector<int64_t> rows;       // their indices

    explicit Block(const HammingTask &task)
        : task(task),
          kernels(*current_kernels().hamming),
          words(task.words),
          capacity(std::max<int64_t>(1, kBytes / (std::max<int64_t>(words, 1) * kernels.expansion * 1024)) * 128),
          lines(static_cast<size_t>(capacity * words * kernels.expansion / 8)),
          codes(lines.empty() ? nullptr : lines.data()->words),
          positions(static_cast<size_t>(capacity)),
          distances(static_cast<size_t>(capacity)),
          gathered(static_cast<size_t>(task.allowed == nullptr ? 0 : capacity * words)),
          rows(static_cast<size_t>(task.allowed == nullptr ? 0 : capacity)) {}

    // Lays out at most `most` allowed codes from `code` on, moves `code` behind them, and returns how many there are.
    int64_t load(int64_t &code, int64_t last, int64_t most) {
        if (task.allowed != nullptr) return load_allowed(code, last, std::min(most, capacity));
        first = code;
        const int64_t count = std::min({last - code, most, capacity});
        kernels.layout(task.codes + first * words, count, words, codes);
        code += count;
        return count;
    }

    int64_t load_allowed(int64_t &code, int64_t last, int64_t most) {
        int64_t count = 0;
        while (code < last && count < most) {
            uint64_t eight;
            if (last - code >= 8 && (std::memcpy(&eight, task.allowed + code, 8), eight == 0)) {
                code += 8;
                continue;
            }
            // Without a branch on what is allowed, which processors would guess wrong.
            std::copy_n(task.codes + code * words, words, gathered.data() + count * words);
            rows[static_cast<size_t>(count)] = code;
            count += task.allowed[code++] != 0;
        }
        kernels.layout(gathered.data(), count, words, codes);
        return count;
    }

    // The key of result i.
    uint64_t key_of(int64_t i) const {
        const uint32_t position = positions[static_cast<size_t>(i)];
        return key(distances[static_cast<size_t>(i)], task.allowed == nullptr ? first + position : rows[position]);
    }

    int64_t nearer(int64_t count, const uint64_t *query, int32_t limit) {
        return kernels.nearer(codes, count, query, words, limit, positions.data(), distances.data());
    }
};

// The k smallest keys so far, among up to as many again. When the memory is full they are cut down to k, which takes
// constant time per key. A code as far as the k-th cannot enter, because its index is higher.
struct Nearest {
    uint64_t *keys;
    int64_t size = 0;
    int32_t limit = std::numeric_limits<int32_t>::max();

    void push(uint64_t key, int64_t k, int64_t capacity) {
        keys[size++] = key;
        if (size == capacity && capacity > k) {
            std::nth_element(keys, keys + k - 1, keys + capacity);
            size = k;
            limit = distance_of(keys[k - 1]);
        }
    }
};

}  // namespace

void hamming_all(const HammingTask &task, int32_t *distances) {
    const Tiles tiles(task.query_count, task.code_count, task.threads, kQueries);
    tiles.run([&](int64_t first_query, int64_t last_query, int64_t, int64_t code, int64_t last) {
        HammingTask everything = task;
        everything.allowed = nullptr;
        Block block(everything);
        while (code < last) {
            const int64_t count = block.load(code, last, block.capacity);
            for (int64_t query = first_query; query < last_query; ++query)
                block.kernels.nearer(block.codes, count, task.queries + query * task.words, task.words,
                                     std::numeric_limits<int32_t>::max(), block.positions.data(),
                                     distances + query * task.code_count + block.first);
        }
    });
}

void hamming_nearest(const HammingTask &task, int64_t k, int32_t *distances, int64_t *indices) {
    if (k == 0 || task.query_count == 0) return;
    const int64_t capacity = std::min(k + std::max<int64_t>(k, 64), task.code_count);
    const Tiles tiles(task.query_count, task.code_count, task.threads,
                      std::clamp<int64_t>((1 << 20) / capacity, 1, kQueries));
    // Each share's k nearest, merged later; the largest key means none.
    const uint64_t none = ~uint64_t{0};
    std::vector<uint64_t> found(static_cast<size_t>(task.query_count * tiles.shares * k), none);
    tiles.run([&](int64_t first_query, int64_t last_query, int64_t share, int64_t code, int64_t last) {
        Block block(task);
        std::vector<uint64_t> keys(static_cast<size_t>((last_query - first_query) * capacity));
        std::vector<Nearest> nearest;
        for (int64_t i = 0; i < last_query - first_query; ++i) nearest.push_back({keys.data() + i * capacity});
        // Small blocks first: until there are k, everything is near.
        int64_t ramp = 64;
        while (code < last) {
            const int64_t count = block.load(code, last, ramp);
            ramp = std::min(2 * ramp, block.capacity);
            for (int64_t query = first_query; query < last_query; ++query) {
                Nearest &mine = nearest[static_cast<size_t>(query - first_query)];
                const int64_t near = block.nearer(count, task.queries + query * task.words, mine.limit);
                for (int64_t i = 0; i < near; ++i)
                    mine.push(block.key_of(i), k, capacity);
            }
        }
        for (int64_t query = first_query; query < last_query; ++query) {
            const Nearest &mine = nearest[static_cast<size_t>(query - first_query)];
            const int64_t number = std::min(k, mine.size);
            std::partial_sort_copy(mine.keys, mine.keys + mine.size,
                                   found.data() + (query * tiles.shares + share) * k,
                                   found.data() + (query * tiles.shares + share) * k + number);
        }
    });
    for (int64_t query = 0; query < task.query_count; ++query) {
        uint64_t *keys = found.data() + query * tiles.shares * k;
        if (tiles.shares > 1) std::partial_sort(keys, keys + k, keys + tiles.shares * k);
        for (int64_t i = 0; i < k; ++i) {
            distances[query * k + i] = distance_of(keys[i]);
            indices[query * k + i] = index_of(keys[i]);
        }
    }
}

std::vector<std::vector<uint64_t>> hamming_within(const HammingTask &task, int32_t radius) {
    const Tiles tiles(task.query_count, task.code_count, task.threads, kQueries);
    std::vector<std::vector<uint64_t>> found(static_cast<size_t>(task.query_count * tiles.shares));
    tiles.run([&](int64_t first_query, int64_t last_query, int64_t share, int64_t code, int64_t last) {
        Block block(task);
        while (code < last) {
            const int64_t count = block.load(code, last, block.capacity);
            for (int64_t query = first_query; query < last_query; ++query) {
                auto &mine = found[static_cast<size_t>(query * tiles.shares + share)];
                const int64_t near = block.nearer(count, task.queries + query * task.words, radius + 1);
                for (int64_t i = 0; i < near; ++i)
                    mine.push_back(block.key_of(i));
            }
        }
    });
    std::vector<std::vector<uint64_t>> merged(static_cast<size_t>(task.query_count));
    parallel_for(task.query_count, task.threads, [&](int64_t first, int64_t last) {
        for (int64_t query = first; query < last; ++query) {
            auto &all = merged[static_cast<size_t>(query)];
            for (int64_t share = 0; share < tiles.shares; ++share) {
                const auto &part = found[static_cast<size_t>(query * tiles.shares + share)];
                all.insert(all.end(), part.begin(), part.end());
            }
            std::sort(all.begin(), all.end());
        }
    });
    return merged;
}

}  // namespace hypersign
