#include <algorithm>
#include <cstring>
#include <limits>

#include "integers.hpp"
#include "levels/levels.hpp"
#include "tiles.hpp"

namespace hypersign {
namespace {

constexpr int64_t kQueries = 1024;    // compared with a block before the next is laid out
constexpr int64_t kTileQueries = 12;  // whose scores are in memory at the same time
constexpr int64_t kBytes = 1 << 15;   // of a block
constexpr int64_t kBlockRows = 128;   // a block has a multiple of them
constexpr int64_t kSorted = 32;       // most results that are kept in order

struct Form {
    int digits;         // of a byte, in rows as they are unpacked
    int stored[2];      // of a byte of each stored plane; 0: no second plane
    int32_t zero;       // the byte of level 0 in a block
    uint8_t table[16];  // the byte of each digit: its level + zero

    bool recoded() const { return stored[0] != digits; }
};

constexpr Form kForms[] = {
    {8, {8, 0}, 1, {0, 2}},
    {4, {5, 0}, 1, {0, 1, 2}},
    {4, {4, 0}, 3, {0, 2, 4, 6}},
    {2, {4, 8}, 128, {1, 49, 83, 114, 142, 173, 207, 255}},
    {2, {2, 0}, 128, {1, 32, 53, 70, 84, 97, 110, 122, 134, 146, 159, 172, 186, 203, 224, 255}},
};

const Form &form_of(LevelKind kind) { return kForms[static_cast<int>(kind)]; }

// Queries in the order of tiles, with their sums. Steps are those of each digit in turn.
struct Queries {
    int64_t packed_steps, steps, bytes;
    std::vector<int8_t> numbers;
    std::vector<int32_t> sums;

    Queries(const LevelTask &task, const Form &form)
        : packed_steps(ceil_div(ceil_div(task.count, form.digits), 4)), steps(form.digits * packed_steps),
          bytes(steps * 4), numbers(static_cast<size_t>(task.query_count * bytes)),
          sums(static_cast<size_t>(task.query_count)) {
        const int64_t width = ceil_div(task.count, form.digits);
        int64_t chunk = 1;
        for (int64_t first = 0; first < task.query_count; first += chunk) {
            // Tiles begin at multiples of kTileQueries, a chunk.
            chunk = level_chunk(std::min(task.query_count, (first / kTileQueries + 1) * kTileQueries) - first);
            for (int64_t q = first; q < first + chunk; ++q) {
                const int8_t *from = task.queries + q * task.count, *end = from + task.count;
                int8_t *to = numbers.data() + first * bytes + (q - first) * 4;
                int32_t sum = 0;
                for (const int8_t *x = from; x < end; ++x) sum += *x;
                sums[static_cast<size_t>(q)] = sum;
                for (; from < end; from += width, to += packed_steps * chunk * 4) {
                    const int64_t left = std::min<int64_t>(width, end - from);
                    for (int64_t j = 0; j < left; j += 4)
                        std::memcpy(to + j * chunk, from + j, static_cast<size_t>(std::min<int64_t>(4, left - j)));
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
    int64_t stored_width, capacity, pitch;
    std::vector<CacheLine> lines;
    std::vector<uint8_t> digits, packed;
    std::vector<int64_t> rows;
    std::vector<float> a, b, scores;
    std::vector<int32_t> dots;
    std::vector<uint32_t> positions;
    int64_t found[kTileQueries];

    Block(const LevelTask &task, const Queries &queries)
        : task(task), form(form_of(task.kind)), queries(queries), kernels(*current_kernels().levels),
          stored_width(level_width(task.kind, task.count)),
          capacity(std::max<int64_t>(1, kBytes / (queries.bytes * kBlockRows)) * kBlockRows), pitch(capacity + 16),
          lines(static_cast<size_t>(ceil_div(capacity * queries.bytes, 64))),
          digits(static_cast<size_t>(task.count + 64)),
          packed(static_cast<size_t>(kernels.lanes * queries.packed_steps * 4)), rows(static_cast<size_t>(capacity)),
          a(static_cast<size_t>(pitch)), b(a.size()), scores(static_cast<size_t>(pitch * kTileQueries)),
          dots(static_cast<size_t>(capacity * kTileQueries)), positions(scores.size()) {}

    uint8_t *bytes() { return lines.data()->bytes; }

    // Lays out at most `most` allowed rows from `row` on, moves `row` behind them, and returns how many there are.
    int64_t load(int64_t &row, int64_t last, int64_t most, bool factors) {
        int64_t count = 0;
        most = std::min(most, capacity);
        if (task.allowed == nullptr) {
            count = std::min(most, last - row);
            for (int64_t i = 0; i < count; ++i) rows[static_cast<size_t>(i)] = row + i;
            row += count;
        }
        for (; row < last && count < most; ++row) {
            rows[static_cast<size_t>(count)] = row;
            count += task.allowed[row] != 0;
        }
        for (int64_t i = 0; factors && i < count; ++i) {
            const uint8_t *from = task.rows + rows[static_cast<size_t>(i)] * task.row_bytes + stored_width;
            std::memcpy(&a[static_cast<size_t>(i)], from, 4);
            std::memcpy(&b[static_cast<size_t>(i)], from + 4, 4);
        }
        for (int64_t i = 0; i < count; i += kernels.lanes) unpack(i, std::min(kernels.lanes, count - i));
        return count;
    }

    void unpack(int64_t first, int64_t count) {
        const int64_t width = ceil_div(task.count, form.digits), step_bytes = queries.packed_steps * 4;
        const uint8_t *from[16];
        for (int64_t lane = 0; lane < kernels.lanes; ++lane) {
            const int64_t i = first + (lane < count ? lane : 0);  // a row once more where none is left
            from[lane] = task.rows + rows[static_cast<size_t>(i)] * task.row_bytes;
            if (!form.recoded() && task.row_bytes >= step_bytes) continue;
            uint8_t *to = packed.data() + lane * step_bytes;
            if (form.recoded())
                kernels.recode(task.kind, task.count, from[lane], digits.data(), to);
            else
                std::memcpy(to, from[lane], static_cast<size_t>(width));
            from[lane] = to;
        }
        kernels.unpack({from, 8 / form.digits, queries.packed_steps, form.table, bytes() + first * queries.bytes});
    }

    // The first `count` rows and some queries.
    LevelTile tile(int64_t count, int64_t first, int64_t number) {
        return {bytes(),
                ceil_div(count, kernels.lanes),
                queries.steps,
                form.zero,
                queries.numbers.data() + first * queries.bytes,
                queries.sums.data() + first,
                number,
                dots.data()};
    }
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
    float limit = std::numeric_limits<float>::quiet_NaN();  // keeps all

    void push(uint64_t key, int64_t k, int64_t capacity) {
        if (k <= kSorted) return insert(key, k);
        keys[size++] = key;
        if (size == capacity && capacity > k) {
            std::nth_element(keys, keys + k - 1, keys + capacity);
            size = k;
            limit = score_of(keys[k - 1]);
        }
    }

    // Few keys are kept in order, so that the limit is always that of the k-th.
    void insert(uint64_t key, int64_t k) {
        if (size == k && key > keys[k - 1]) return;
        int64_t i = size < k ? size++ : k - 1;
        for (; i > 0 && keys[i - 1] > key; --i) keys[i] = keys[i - 1];
        keys[i] = key;
        if (size == k) limit = score_of(keys[k - 1]);
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
                const LevelTile tile = block.tile(count, q, std::min(kTileQueries, last - q));
                block.kernels.dots(tile);
                const int64_t pitch = tile.groups * block.kernels.lanes;
                for (int64_t i = 0; i < tile.query_count; ++i)
                    std::copy_n(tile.dots + i * pitch, count, dots + (q + i) * task.row_count + from);
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
        int64_t ramp = 32;
        while (row < last_row) {
            const int64_t count = block.load(row, last_row, ramp, true);
            ramp = std::min(2 * ramp, block.capacity);
            for (int64_t q = first; q < last; q += kTileQueries) {
                const int64_t number = std::min(kTileQueries, last - q);
                Nearest *const mine = nearest.data() + (q - first);
                float limits[kTileQueries];
                for (int64_t i = 0; i < number; ++i) limits[i] = mine[i].limit;
                block.kernels.select(block.tile(count, q, number),
                                     {count, steps + q, limits, block.a.data(), block.b.data(), block.pitch,
                                      block.positions.data(), block.scores.data(), block.found});
                for (int64_t i = 0; i < number; ++i)
                    for (int64_t j = 0; j < block.found[i]; ++j) {
                        const auto at = static_cast<size_t>(i * block.pitch + j);
                        mine[i].push(key(block.scores[at], block.rows[block.positions[at]]), k, capacity);
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
