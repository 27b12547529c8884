#include <algorithm>
#include <cstring>
#include <limits>

#include "integers.hpp"
#include "levels/levels.hpp"
#include "tiles.hpp"

namespace hypersign {
namespace {

constexpr int64_t kQueries = 240;    // compared with a block before the next is laid out
constexpr int64_t kTileQueries = 12;  // whose dot products are in memory at the same time
constexpr int64_t kBytes = 1 << 14;  // of a block
constexpr int64_t kBlockRows = 128;  // a block has a multiple of them
constexpr int64_t kSorted = 32;      // most results that are kept in order

struct Form {
    int digits;            // of a byte in a block
    int stored[2];         // of a byte of each stored plane; 0: no second plane
    int32_t factor, zero;  // level = factor digit - zero, or a table
    const int8_t *table;
};

const int8_t kThree[16] = {-127, -79, -45, -14, 14, 45, 79, 127};
const int8_t kFour[16] = {-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127};

const Form kForms[] = {{8, {8, 0}, 2, 1, nullptr}, {4, {5, 0}, 1, 1, nullptr}, {4, {4, 0}, 2, 3, nullptr},
                       {2, {4, 8}, 1, 0, kThree},  {2, {2, 0}, 1, 0, kFour}};

const Form &form_of(LevelKind kind) { return kForms[static_cast<int>(kind)]; }

// Queries in the order of tiles, with their sums.
struct Queries {
    int64_t steps, bytes;
    std::vector<int8_t> numbers;
    std::vector<int32_t> sums;

    Queries(const LevelTask &task, const Form &form)
        : steps(ceil_div(ceil_div(task.count, form.digits), 4)), bytes(form.digits * steps * 4),
          numbers(static_cast<size_t>(task.query_count * bytes)), sums(static_cast<size_t>(task.query_count)) {
        const int64_t width = ceil_div(task.count, form.digits);
        int64_t chunk = 1;
        for (int64_t first = 0; first < task.query_count; first += chunk) {
            // Tiles begin at multiples of kTileQueries, a chunk.
            chunk = level_chunk(std::min(task.query_count, (first / kTileQueries + 1) * kTileQueries) - first);
            for (int64_t q = first; q < first + chunk; ++q) {
                const int8_t *from = task.queries + q * task.count;
                int8_t *to = numbers.data() + first * bytes + (q - first) * 4;
                for (int64_t j = 0; j < task.count; ++j) {
                    const int64_t digit = j / width, at = j % width;
                    to[(digit * steps + at / 4) * chunk * 4 + at % 4] = from[j];
                    sums[static_cast<size_t>(q)] += from[j];
                }
            }
        }
    }
};

struct alignas(64) CacheLine {
    uint8_t bytes[64];
};

// Memory for a block of rows and its scores.
struct Block {
    const LevelTask &task;
    const Form &form;
    const Queries &queries;
    const LevelKernels &kernels;
    int64_t width, stored_width, capacity;
    std::vector<CacheLine> lines;
    std::vector<uint8_t> digits, scan;
    std::vector<int64_t> rows;
    std::vector<float> a, b, scores;
    std::vector<int32_t> dots;
    std::vector<uint32_t> positions;

    Block(const LevelTask &task, const Queries &queries)
        : task(task), form(form_of(task.kind)), queries(queries), kernels(*current_kernels().levels),
          width(ceil_div(task.count, form.digits)), stored_width(level_width(task.kind, task.count)),
          capacity(std::max<int64_t>(1, kBytes / (queries.steps * 4 * kBlockRows)) * kBlockRows),
          lines(static_cast<size_t>(ceil_div(capacity * queries.steps * 4, 64))),
          digits(static_cast<size_t>(task.count + 64)), scan(static_cast<size_t>(queries.steps * 4)),
          rows(static_cast<size_t>(capacity)), a(static_cast<size_t>(capacity)), b(a.size()),
          scores(static_cast<size_t>(capacity + 16)), dots(static_cast<size_t>(capacity * kTileQueries)),
          positions(scores.size()) {}

    uint8_t *bytes() { return lines.data()->bytes; }

    // Lays out at most `most` allowed rows from `row` on, moves `row` behind them, and returns how many there are.
    int64_t load(int64_t &row, int64_t last, int64_t most, bool factors) {
        int64_t count = 0;
        for (most = std::min(most, capacity); row < last && count < most; ++row) {
            if (task.allowed != nullptr && task.allowed[row] == 0) continue;
            rows[static_cast<size_t>(count++)] = row;
        }
        for (int64_t i = 0; i < count; ++i) {
            const uint8_t *from = task.rows + rows[static_cast<size_t>(i)] * task.row_bytes;
            if (factors) {
                std::memcpy(&a[static_cast<size_t>(i)], from + stored_width, 4);
                std::memcpy(&b[static_cast<size_t>(i)], from + stored_width + 4, 4);
            }
            if (task.kind == LevelKind::three_halves || task.kind == LevelKind::three) {
                kernels.recode(task.kind, task.count, from, digits.data(), scan.data());
                from = scan.data();
            }
            const int64_t lane = i % kernels.lanes;
            uint8_t *to = bytes() + (i - lane) * queries.steps * 4 + lane * 4;
            const int64_t pitch = kernels.lanes * 4;
            for (int64_t step = 0; step < width / 4; ++step, to += pitch, from += 4) std::memcpy(to, from, 4);
            for (int64_t j = 0; j < width % 4; ++j) to[j] = from[j];
        }
        return count;
    }

    // Dot products of digits of the first `count` rows with some queries: (queries, rows of whole groups).
    int64_t multiply(int64_t count, int64_t first, int64_t number) {
        const int64_t groups = ceil_div(count, kernels.lanes);
        kernels.dots({bytes(), groups, queries.steps, form.digits, form.table,
                      queries.numbers.data() + first * queries.bytes, queries.sums.data() + first, number,
                      dots.data()});
        return groups * kernels.lanes;
    }

    int32_t offset(int64_t query) const { return -form.zero * queries.sums[static_cast<size_t>(query)]; }
};

// A score, then an index: keys order as results do. Negative numbers have their bits flipped, others their sign; NaN
// comes last, and -0 is 0.
uint64_t key(float score, int64_t index) {
    score = score + 0.0F;
    uint32_t bits;
    std::memcpy(&bits, &score, 4);
    if (score != score) bits = 0x7FC00000;
    bits = (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
    return static_cast<uint64_t>(bits) << 32 | static_cast<uint64_t>(index);
}
float score_of(uint64_t key) {
    auto bits = static_cast<uint32_t>(key >> 32);
    bits = (bits >> 31) != 0 ? bits & 0x7FFFFFFFU : ~bits;
    float score;
    std::memcpy(&score, &bits, 4);
    return score;
}

// The k smallest keys so far, among up to as many again. When the memory is full they are cut down to k, which takes
// constant time per key. A row with the score of the k-th cannot enter, because its index is higher.
struct Nearest {
    uint64_t *keys;
    int64_t size = 0;
    bool all = true;
    float limit = 0;

    void push(uint64_t key, int64_t k, int64_t capacity) {
        if (k <= kSorted) return insert(key, k);
        keys[size++] = key;
        if (size == capacity && capacity > k) {
            std::nth_element(keys, keys + k - 1, keys + capacity);
            size = k;
            limit = score_of(keys[k - 1]);
            all = limit != limit;
        }
    }

    // Few keys are kept in order, so that the limit is always that of the k-th.
    void insert(uint64_t key, int64_t k) {
        if (size == k && key > keys[k - 1]) return;
        int64_t i = size < k ? size++ : k - 1;
        for (; i > 0 && keys[i - 1] > key; --i) keys[i] = keys[i - 1];
        keys[i] = key;
        if (size < k) return;
        limit = score_of(keys[k - 1]);
        all = limit != limit;
    }
};

}  // namespace

int64_t level_width(LevelKind kind, int64_t count) {
    const Form &form = form_of(kind);
    return ceil_div(count, form.stored[0]) + (form.stored[1] != 0 ? ceil_div(count, form.stored[1]) : 0);
}

void level_dots(const LevelTask &task, int32_t *dots) {
    const Queries queries(task, form_of(task.kind));
    const Tiles tiles(task.query_count, task.row_count, task.threads, kQueries);
    tiles.run([&](int64_t first, int64_t last, int64_t, int64_t row, int64_t last_row) {
        Block block(task, queries);
        while (row < last_row) {
            const int64_t from = row, count = block.load(row, last_row, block.capacity, false);
            for (int64_t q = first; q < last; q += kTileQueries) {
                const int64_t number = std::min(kTileQueries, last - q), pitch = block.multiply(count, q, number);
                for (int64_t i = 0; i < number; ++i)
                    for (int64_t j = 0; j < count; ++j)
                        dots[(q + i) * task.row_count + from + j] =
                            block.form.factor * block.dots[static_cast<size_t>(i * pitch + j)] + block.offset(q + i);
            }
        }
    });
}

void level_nearest(const LevelTask &task, const float *steps, int64_t k, float *scores, int64_t *indices) {
    if (k == 0 || task.query_count == 0) return;
    const Queries queries(task, form_of(task.kind));
    const int64_t capacity = std::min(k + std::max<int64_t>(k / 2, 8), task.row_count);
    const Tiles tiles(task.query_count, task.row_count, task.threads,
                      std::clamp<int64_t>((1 << 20) / capacity, 1, kQueries));
    // Each share's k nearest, merged later; the largest key means none.
    std::vector<uint64_t> found(static_cast<size_t>(task.query_count * tiles.shares * k), ~uint64_t{0});
    tiles.run([&](int64_t first, int64_t last, int64_t share, int64_t row, int64_t last_row) {
        Block block(task, queries);
        std::vector<uint64_t> keys(static_cast<size_t>((last - first) * capacity));
        std::vector<Nearest> nearest;
        for (int64_t i = 0; i < last - first; ++i) nearest.push_back({keys.data() + i * capacity});
        // Small blocks first: until there are k, everything is near.
        int64_t ramp = 64;
        while (row < last_row) {
            const int64_t count = block.load(row, last_row, ramp, true);
            ramp = std::min(2 * ramp, block.capacity);
            for (int64_t q = first; q < last; q += kTileQueries) {
                const int64_t number = std::min(kTileQueries, last - q), pitch = block.multiply(count, q, number);
                for (int64_t i = 0; i < number; ++i) {
                    Nearest &mine = nearest[static_cast<size_t>(q + i - first)];
                    const int64_t near = block.kernels.select(
                        {block.dots.data() + i * pitch, count, block.form.factor, block.offset(q + i), steps[q + i],
                         block.a.data(), block.b.data(), mine.all, mine.limit, block.positions.data(),
                         block.scores.data()});
                    for (int64_t j = 0; j < near; ++j)
                        mine.push(key(block.scores[static_cast<size_t>(j)],
                                      block.rows[block.positions[static_cast<size_t>(j)]]),
                                  k, capacity);
                }
            }
        }
        for (int64_t q = first; q < last; ++q) {
            const Nearest &mine = nearest[static_cast<size_t>(q - first)];
            const int64_t number = std::min(k, mine.size);
            uint64_t *to = found.data() + (q * tiles.shares + share) * k;
            std::partial_sort_copy(mine.keys, mine.keys + mine.size, to, to + number);
        }
    });
    for (int64_t q = 0; q < task.query_count; ++q) {
        uint64_t *keys = found.data() + q * tiles.shares * k;
        if (tiles.shares > 1) std::partial_sort(keys, keys + k, keys + tiles.shares * k);
        for (int64_t i = 0; i < k; ++i) {
            scores[q * k + i] = score_of(keys[i]);
            indices[q * k + i] = static_cast<int64_t>(keys[i] & 0xFFFFFFFFU);
        }
    }
}

}  // namespace hypersign
