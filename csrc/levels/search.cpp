#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>

#include "integers.hpp"
#include "levels/levels.hpp"
#include "levels/pruning.hpp"
#include "tiles.hpp"

namespace hypersign {
namespace {

constexpr int64_t kTileQueries = 12;  // whose scores are in memory at the same time; more begin at a multiple
constexpr int64_t kQueries = 85 * kTileQueries;  // compared with a block before the next is laid out
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
    {2, {4, 8}, 62, {0, 23, 40, 55, 69, 84, 101, 124}},
    {2, {2, 0}, 61, {0, 15, 25, 33, 40, 46, 52, 58, 64, 70, 76, 82, 89, 97, 107, 122}},
    {1, {2, 4}, 63, {}},
};

const Form &form_of(LevelKind kind) { return kForms[static_cast<int>(kind)]; }

// Queries in the order of tiles, with their sums. Steps are those of each digit in turn.
struct Queries {
    int64_t packed_steps, steps, bytes;
    std::vector<int8_t> numbers, ordered;
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

// At most `most` allowed rows from `row` on; moves `row` behind them, and returns how many there are.
int64_t choose(const LevelTask &task, int64_t &row, int64_t last, int64_t most, int64_t *rows) {
    int64_t count = 0;
    if (task.allowed == nullptr) {
        for (; row < last && count < most; ++row) rows[count++] = row;
        return count;
    }
    for (; row < last && count < most; ++row) {
        rows[count] = row;
        count += task.allowed[row] != 0;
    }
    return count;
}

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
        const int64_t count = choose(task, row, last, std::min(most, capacity), rows.data());
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

// Whether all have limits.
bool limited(const std::vector<Nearest> &nearest) {
    return std::all_of(nearest.begin(), nearest.end(), [](const Nearest &each) { return each.limit == each.limit; });
}

// How the sum of signs follows from the product, by kind: for Gaussian rows of many levels, measured.
struct Signs {
    double ratio;      // of the weight that holds along the row to sum|c| / sum c^2, which holds across it
    double deviation;  // of S, in units of |v|, if the cosine of v and row is 0
    double varying;    // if it is 1
};

constexpr Signs kSigns[] = {{1, 0, 0}, {}, {.977, .494, .147}, {1, .585, .097}, {1, .598, .055}, {}};

constexpr double kDeviations = 3.5;
// The pruning gains for at least this many queries, levels of a row, levels of all rows, and rows for each result.
constexpr int64_t kPruningBatch = 64, kPruningLevels = 256, kPruningProducts = 5'000'000, kPruningRanks = 1000;
constexpr int64_t kMostPruningLevels = 8192;
constexpr int64_t kPruningStart = 480;         // rows before pruning begins: then limits are known
constexpr int64_t kPruningTrial = 1 << 12;     // rows after which it ends if too many pass:
constexpr double kMostPassed = .07;
constexpr int64_t kPruningRows = 1 << 12;      // most rows of its block
constexpr int64_t kPruningIndices = 1 << 18;   // most bytes of signs of its block
constexpr int64_t kCosts = 1 << 24;          // most bytes of costs of its queries
constexpr double kCostRange = 240;           // a byte, with some space for rows that need less

// Memory of pruning for some queries and a block of rows.
struct Pruning {
    Block &block;
    const LevelTask &task;
    const float *steps;
    int64_t first, query_count, lookups, pitch, digits, capacity;
    std::vector<int64_t> rows;
    std::vector<uint8_t> packed, indices, used, held;
    std::unique_ptr<uint8_t[]> costs;  // (queries, lookups, 64), not set to zeros
    std::vector<uint64_t> always;
    std::vector<int32_t> absolutes, squares;
    std::vector<int16_t> products, offsets;
    std::vector<float> a, b, product, offset, scores;
    std::vector<uint32_t> positions, passed;
    std::vector<int8_t> numbers, ordered;
    struct Query {
        double unit = 0, constant = 0;  // of a cost; no unit: all rows pass
    };
    std::vector<Query> prepared;
    int64_t found[kPruningQueries];
    double product_scale = 0, offset_scale = 0;

    // Whether it is quicker, and can be used.
    static bool pays(const LevelTask &task, int64_t k, int64_t row_count) {
        const bool fine = task.kind == LevelKind::three || task.kind == LevelKind::four;
        const bool kind = task.kind != LevelKind::three_halves && task.kind != LevelKind::six;
        return kind && !task.exact && current_kernels().levels->pruning != nullptr &&
               task.query_count >= kPruningBatch && task.count >= kPruningLevels && task.count <= kMostPruningLevels &&
               row_count * task.count >= (fine ? 3 : 1) * kPruningProducts && row_count >= kPruningRanks * k;
    }

    // The most queries whose costs fit into kCosts, in whole tiles.
    static int64_t queries(const Queries &queries) {
        return std::min(kQueries, kCosts / (ceil_div(queries.steps, 3) * 128) / kTileQueries * kTileQueries);
    }

    Pruning(Block &block, const float *steps, int64_t first, int64_t last)
        : block(block), task(block.task), steps(steps), first(first), query_count(last - first),
          lookups(ceil_div(block.queries.steps, 3) * 2), pitch(ceil_div(block.queries.packed_steps, 8) * 32),
          digits(block.form.digits),
          capacity(std::clamp<int64_t>(kPruningIndices / (lookups * 256) * 256, 256, kPruningRows)),
          rows(static_cast<size_t>(capacity)), packed(static_cast<size_t>(capacity * pitch)),
          indices(static_cast<size_t>(capacity * lookups)), used(static_cast<size_t>(block.queries.bytes)),
          held(static_cast<size_t>(capacity * kPruningQueries)),
          costs(new uint8_t[static_cast<size_t>(query_count * lookups * 64)]), always(static_cast<size_t>(capacity / 64)),
          absolutes(static_cast<size_t>(capacity)), squares(absolutes.size()), products(absolutes.size()),
          offsets(absolutes.size()), a(absolutes.size() + 16), b(a.size()), product(a.size()), offset(a.size()),
          scores(static_cast<size_t>(pitch_of_found() * kPruningQueries)), positions(scores.size()),
          passed(scores.size()),
          numbers(static_cast<size_t>(query_count * digits * pitch)),
          ordered(static_cast<size_t>(lookups * 6)),
          prepared(static_cast<size_t>(query_count)) {
        const int64_t width = ceil_div(task.count, digits);
        for (int64_t i = 0; i < digits; ++i) {
            const int64_t here = std::clamp<int64_t>(task.count - i * width, 0, width);
            std::fill_n(used.data() + i * block.queries.packed_steps * 4, here, uint8_t{255});
            for (int64_t q = 0; q < query_count; ++q)
                std::copy_n(task.queries + (first + q) * task.count + i * width, here,
                            numbers.data() + (q * digits + i) * pitch);
        }
    }

    const PruningKernels &kernels() const { return *block.kernels.pruning; }

    int64_t load(int64_t &row, int64_t last, int64_t most) {
        const int64_t count = choose(task, row, last, std::min(most, capacity), rows.data());
        const int64_t width = ceil_div(task.count, digits), lanes = block.kernels.lanes;
        for (int64_t i = 0; i < count; ++i) {
            const uint8_t *from = task.rows + rows[static_cast<size_t>(i)] * task.row_bytes;
            uint8_t *to = packed.data() + i * pitch;
            if (block.form.recoded())
                block.kernels.recode(task.kind, task.count, from, block.digits.data(), to);
            else
                std::memcpy(to, from, static_cast<size_t>(width));
            std::memcpy(&a[static_cast<size_t>(i)], from + block.stored_width, 4);
            std::memcpy(&b[static_cast<size_t>(i)], from + block.stored_width + 4, 4);
        }
        for (int64_t start = 0; start < count; start += block.capacity) {
            const int64_t number = std::min(block.capacity, count - start);
            for (int64_t i = 0; i < number; i += lanes) {
                const uint8_t *from[16];
                for (int64_t lane = 0; lane < lanes; ++lane)
                    from[lane] = packed.data() + std::min(start + i + lane, count - 1) * pitch;
                block.kernels.unpack({from, 8 / block.form.digits, block.queries.packed_steps, block.form.table,
                                      block.bytes() + i * block.queries.bytes});
            }
            kernels().signs(block.tile(ceil_div(number, 64) * 64, 0, 0), used.data(), lookups,
                            indices.data() + start * lookups, absolutes.data() + start, squares.data() + start);
        }
        weigh(count);
        return count;
    }

    void weigh(int64_t count) {
        float largest[2];
        kernels().weigh({count, static_cast<float>(kSigns[static_cast<int>(task.kind)].ratio), absolutes.data(),
                         squares.data(), a.data(), b.data(), product.data(), offset.data(), always.data(),
                         products.data(), offsets.data(), largest});
        product_scale = largest[0] * (32768. / 32767);
        offset_scale = largest[1] * (32768. / 32767);
    }

    // The costs of a query, in units in which most rows' limits fit into bytes.
    void prepare(int64_t q, int64_t count, float limit) {
        for (int64_t i = 0; i < digits; ++i)
            std::copy_n(numbers.data() + (q * digits + i) * pitch, block.queries.packed_steps * 4,
                        ordered.data() + i * block.queries.packed_steps * 4);
        int32_t size = 0, square = 0;
        for (const int8_t x : ordered) {
            size += x < 0 ? -x : x;
            square += x * x;
        }
        const double length = std::sqrt(static_cast<double>(square)), sum = size;
        float lows[16];
        std::fill_n(lows, 16, std::numeric_limits<float>::infinity());
        for (int64_t i = 0; i + 16 <= std::min<int64_t>(count, 64); i += 16)
            for (int64_t j = 0; j < 16; ++j) {
                const float demand = offset[static_cast<size_t>(i + j)] - product[static_cast<size_t>(i + j)] * limit;
                lows[j] = demand < lows[j] ? demand : lows[j];
            }
        const double least = *std::min_element(lows, lows + 16) / static_cast<double>(steps[first + q]);
        Query &own = prepared[static_cast<size_t>(q)];
        if (!(std::fabs(least) <= kPruningMost) || size == 0) return;
        const Signs &signs = kSigns[static_cast<int>(task.kind)];
        const double cosine = std::clamp(least / (.8 * std::sqrt(static_cast<double>(task.count)) * length), 0.0, 1.0);
        const double deviation = length * std::sqrt(signs.deviation * signs.deviation * (1 - cosine * cosine) +
                                                    signs.varying * signs.varying * cosine * cosine);
        const double margin = sum + kDeviations * deviation;
        own.unit = std::max(margin - least, .05 * margin) / kCostRange;
        const double rounding = own.unit * std::sqrt(static_cast<double>(lookups) / 12);
        own.constant = sum + kDeviations * std::hypot(deviation, rounding) + 2 * own.unit;
        kernels().costs(ordered.data(), lookups, static_cast<float>(2 / own.unit), costs.get() + q * lookups * 64);
    }

    int64_t pitch_of_found() const { return capacity + 80; }

    // The wanted scores of kPruningQueries queries from q on, the last one repeated. Returns how many rows passed.
    int64_t run(int64_t q, int64_t count, const float *limits) {
        LevelPruning pruning{ceil_div(count, 64), lookups, indices.data(), products.data(), offsets.data(), always.data(),
                         {}, {}, {}, {}, packed.data(), pitch, 8 / block.form.digits, block.form.table,
                         block.form.zero, {}, {}, held.data(), passed.data()};
        float some_steps[kPruningQueries];
        for (int64_t i = 0; i < kPruningQueries; ++i) {
            const int64_t own = std::min(q + i, query_count - 1);
            const Query &query = prepared[static_cast<size_t>(own)];
            const double scale = 1 / (steps[first + own] * query.unit);
            const double constant = query.constant / query.unit, p = product_scale * limits[i] * scale,
                         o = offset_scale * scale;
            const bool fits = constant <= 2000 && std::fabs(p) <= 30000 && o <= 30000;
            pruning.constants[i] = fits ? static_cast<int16_t>(constant) : int16_t{32767};
            pruning.product_scales[i] = fits ? static_cast<int16_t>(std::lrint(p)) : int16_t{0};
            pruning.offset_scales[i] = fits ? static_cast<int16_t>(std::lrint(o)) : int16_t{0};
            pruning.costs[i] = costs.get() + own * lookups * 64;
            pruning.numbers[i] = numbers.data() + own * digits * pitch;
            pruning.sums[i] = block.queries.sums[static_cast<size_t>(first + own)];
            some_steps[i] = steps[first + own];
        }
        return kernels().prune(pruning, {count, some_steps, limits, a.data(), b.data(), pitch_of_found(),
                                       positions.data(), scores.data(), found});
    }
};

// The nearest rows of some queries.
struct Scan {
    Block block;
    const float *steps;
    int64_t first, count, k, capacity;
    std::vector<uint64_t> keys;
    std::vector<Nearest> nearest;

    Scan(const LevelTask &task, const Queries &queries, const float *steps, int64_t first, int64_t last, int64_t k,
         int64_t capacity)
        : block(task, queries), steps(steps), first(first), count(last - first), k(k), capacity(capacity),
          keys(static_cast<size_t>(count * capacity)) {
        for (int64_t i = 0; i < count; ++i) nearest.push_back({keys.data() + i * capacity});
    }

    void run(int64_t row, int64_t last_row) {
        const int64_t start = row;
        bool pruned = count >= kPruningBatch && Pruning::pays(block.task, k, last_row - row);
        std::optional<Pruning> pruning;
        // Small blocks first: until there are k, everything is near.
        int64_t most = 32;
        while (row < last_row) {
            if (!pruned || row - start < kPruningStart || !limited(nearest)) {
                whole(block.load(row, last_row, most, true));
                most = std::min(2 * most, block.capacity);
                continue;
            }
            const bool begins = !pruning;
            if (begins) pruning.emplace(block, steps, first, first + count);
            const int64_t rows = pruning->load(row, last_row, most);
            most = std::min(2 * most, pruning->capacity);
            const double share = static_cast<double>(by_signs(*pruning, rows, begins)) / static_cast<double>(rows * count);
            pruned = row - start < kPruningTrial || share <= kMostPassed;
        }
    }

    // The first `rows` rows of the block.
    void whole(int64_t rows) {
        for (int64_t q = 0; q < count; q += kTileQueries) {
            const int64_t number = std::min(kTileQueries, count - q);
            float limits[kTileQueries];
            for (int64_t i = 0; i < number; ++i) limits[i] = nearest[static_cast<size_t>(q + i)].limit;
            block.kernels.select(block.tile(rows, first + q, number),
                                 {rows, steps + first + q, limits, block.a.data(), block.b.data(), block.pitch,
                                  block.positions.data(), block.scores.data(), block.found});
            for (int64_t i = 0; i < number; ++i)
                push(q + i, block.found[i], block.rows, block.positions, block.scores, i * block.pitch);
        }
    }

    // The first `rows` rows of its block. Returns how many pass, of all queries together.
    int64_t by_signs(Pruning &pruning, int64_t rows, bool begins) {
        int64_t passed = 0;
        for (int64_t q = 0; q < count; q += kPruningQueries) {
            float limits[kPruningQueries];
            for (int64_t i = 0; i < kPruningQueries; ++i) {
                limits[i] = nearest[static_cast<size_t>(std::min(q + i, count - 1))].limit;
                if (begins && q + i < count) pruning.prepare(q + i, rows, limits[i]);
            }
            passed += pruning.run(q, rows, limits);
            for (int64_t i = 0; i < std::min(kPruningQueries, count - q); ++i)
                push(q + i, pruning.found[i], pruning.rows, pruning.positions, pruning.scores, i * pruning.pitch_of_found());
        }
        return passed;
    }

    void push(int64_t q, int64_t number, const std::vector<int64_t> &rows, const std::vector<uint32_t> &positions,
              const std::vector<float> &scores, int64_t start) {
        for (int64_t i = start; i < start + number; ++i) {
            const auto at = static_cast<size_t>(i);
            nearest[static_cast<size_t>(q)].push(key(scores[at], rows[positions[at]]), k, capacity);
        }
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
    const int64_t most = Pruning::pays(task, k, task.row_count) ? Pruning::queries(queries) : kQueries;
    const int64_t kept = std::clamp<int64_t>((1 << 20) / capacity / kTileQueries * kTileQueries, kTileQueries, most);
    const Tiles tiles(task.query_count, task.row_count, task.threads, kept);
    // Each share's k nearest, merged later; the largest key means none.
    std::vector<uint64_t> found(static_cast<size_t>(task.query_count * tiles.shares * k), ~uint64_t{0});
    tiles.run([&](int64_t first, int64_t last, int64_t share, int64_t row, int64_t last_row) {
        Scan scan(task, queries, steps, first, last, k, capacity);
        scan.run(row, last_row);
        for (int64_t q = first; q < last; ++q) {
            const Nearest &mine = scan.nearest[static_cast<size_t>(q - first)];
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
