#include <algorithm>
#include <cstdlib>
#include <new>
#include <numeric>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "integers.hpp"
#include "parallel.hpp"
#include "product8/product8.hpp"

namespace hypersign {
namespace {

constexpr size_t kHuge = size_t{1} << 21;  // bytes of a huge page

// Memory on cache lines; large blocks ask for huge pages, because the pages of a weight matrix do not fit into the
// processor's table of pages.
void *allocate(size_t bytes) {
    const size_t alignment = bytes >= kHuge ? kHuge : 64;
    void *p = std::aligned_alloc(alignment, (std::max(bytes, size_t{1}) + alignment - 1) / alignment * alignment);
    if (p == nullptr) throw std::bad_alloc();
#if defined(__linux__)
    if (bytes >= kHuge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return p;
}

// `count` bits, at most four, from bit `i` on.
uint32_t four_bits(const uint64_t *words, int64_t i, int64_t count) {
    uint64_t bits = words[i / 64] >> (i % 64);
    if (i % 64 + count > 64) bits |= words[i / 64 + 1] << (64 - i % 64);
    return static_cast<uint32_t>(bits & ((1U << count) - 1));
}

// Four bits as four bytes.
uint32_t spread(uint32_t bits) { return (bits * 0x00204081U) & 0x01010101U; }

constexpr int64_t kChunk = 1 << 17;   // bytes of inputs
constexpr int64_t kManyFilters = 256;      // lookup tables for rows pay from these on
constexpr int64_t kTogether = 2048;                    // filters whose sums stay in the second cache
constexpr size_t kKept = size_t{1} << 26;  // bytes of ordered inputs that a thread keeps at most

// Memory on cache lines, kept from call to call.
struct Workspace {
    uint8_t *lines(int64_t bytes) {
        if (kept.size() < static_cast<size_t>(bytes) + 64) kept = std::vector<uint8_t>(static_cast<size_t>(bytes) + 64);
        return kept.data() + (64 - reinterpret_cast<uintptr_t>(kept.data()) % 64);
    }
    std::vector<uint8_t> kept;
};

}  // namespace

void Product8Filters::Free::operator()(void *p) const { std::free(p); }

Product8Filters::Product8Filters(const Product8Kernels &kernels, const uint64_t *words, int64_t filters, int64_t depth,
                                 bool ternary, const float *scale, int64_t group)
    : filters(filters), depth(depth), group(group), groups(ceil_div(depth, group)), bits(ternary ? 2 : 1),
      kernels_(kernels),
      by_bytes_(!ternary && groups == 1 && kernels_.lookup != nullptr) {
    // Blocks of 64 filters are pairs of blocks of 32.
    const int64_t pairs = ceil_div(filters, kProduct8Bytes), positions = 8 / bits, row = ceil_div(depth, 64);
    const int64_t blocks = by_bytes_ ? 2 * pairs : ceil_div(filters, kProduct8Lanes);
    steps = ceil_div(group, positions * kProduct8Quad);
    if (by_bytes_) steps = round_up(steps * kProduct8Quad, kProduct8Triple) / kProduct8Quad;
    const int64_t block_bytes = groups * steps * kProduct8Step;
    weights_.reset(static_cast<uint8_t *>(allocate(static_cast<size_t>(blocks * block_bytes))));
    scale_.reset(static_cast<float *>(allocate(static_cast<size_t>(blocks * groups * kProduct8Lanes) * sizeof(float))));
    std::memset(weights_.get(), 0, static_cast<size_t>(blocks * block_bytes));
    std::fill_n(scale_.get(), blocks * groups * kProduct8Lanes, 1.0F);
    int64_t place[kProduct8Bytes];  // of a filter's byte in a vector
    for (int64_t i = 0; i < kProduct8Lanes; ++i) {
        place[product8_filter(i)] = 2 * i;
        place[product8_filter(i) + kProduct8Lanes] = 2 * i + 1;
    }
    for (int64_t f = 0; f < filters; ++f) {
        const uint64_t *sign = words + f * row, *nonzero = words + (filters + f) * row;
        uint8_t *block = weights_.get() + f / kProduct8Lanes * block_bytes + f % kProduct8Lanes * kProduct8Quad;
        uint8_t *bytes = weights_.get() + f / kProduct8Bytes * 2 * block_bytes + place[f % kProduct8Bytes];
        for (int64_t g = 0; g < groups; ++g) {
            uint8_t *to = block + g * steps * kProduct8Step;
            const int64_t first = g * group, count = std::min(group, depth - first);
            for (int64_t i = 0, position = 0, step = 0; i < count; i += kProduct8Quad) {
                const int64_t left = std::min(kProduct8Quad, count - i);
                uint32_t codes = four_bits(sign, first + i, left), all;
                if (ternary) {
                    const uint32_t other = four_bits(nonzero, first + i, left);
                    codes = spread(~other & ((1U << left) - 1)) | spread(other & ~codes) << 1;
                } else {
                    codes = spread(codes);
                }
                codes <<= position * bits;
                if (by_bytes_) {
                    for (int64_t j = 0; j < kProduct8Quad; ++j)
                        bytes[(step * kProduct8Quad + j) * kProduct8Bytes] |= static_cast<uint8_t>(codes >> (8 * j));
                } else {
                    std::memcpy(&all, to + step * kProduct8Step, sizeof all);
                    all |= codes;
                    std::memcpy(to + step * kProduct8Step, &all, sizeof all);
                }
                if (++step == steps) step = 0, ++position;
            }
            if (scale != nullptr)
                scale_[static_cast<size_t>((f / kProduct8Lanes * groups + g) * kProduct8Lanes + f % kProduct8Lanes)] =
                    scale[f * groups + g];
        }
    }
}

void Product8Filters::multiply(const int8_t *x, int64_t rows, int32_t *sums, float *scaled, const float *x_scale,
                               int threads) const {
    const Product8Kernels &kernels = kernels_;
    const Product8Tables *tables = kernels.tables;
    const bool tabulated = tables != nullptr && tables->kinds[bits - 1].add != nullptr && groups == 1;
    if (tabulated && rows >= tables->rows && filters >= kManyFilters) {
        const int64_t many = rows / tables->rows * tables->rows, y = many * filters;
        tabulate(x, many, sums, scaled, x_scale, threads);
        return multiply(x + many * depth, rows - many, sums == nullptr ? nullptr : sums + y,
                        scaled == nullptr ? nullptr : scaled + y, x_scale == nullptr ? nullptr : x_scale + many, threads);
    }
    if (by_bytes_ && rows <= kernels.lookup->most) return look_up(x, rows, sums, scaled, x_scale, threads);
    const int64_t padded = group_inputs(), pitch = padded * groups, blocks = ceil_div(filters, kProduct8Lanes);
    // Rows that stay in the second cache together.
    const int64_t at_once = kernels.rows * std::clamp<int64_t>(kChunk / (kernels.rows * pitch), 1, 16);
    const int64_t chunks = ceil_div(rows, at_once);
    // Kept, because fresh memory costs more time than a small product.
    static thread_local std::vector<int8_t> kept;
    static thread_local std::vector<int32_t> kept_sums;
    if (kept.size() < static_cast<size_t>(rows * pitch)) kept = std::vector<int8_t>(static_cast<size_t>(rows * pitch));
    if (kept_sums.size() < static_cast<size_t>(rows * groups)) kept_sums.resize(static_cast<size_t>(rows * groups));
    int8_t *const ordered = kept.data();  // the caller's, also in other threads
    int32_t *const x_sums = kept_sums.data();
    // Calls work(row, rows) for the tiles of a chunk.
    const auto tiles = [&](int64_t chunk, auto work) {
        const int64_t end = std::min((chunk + 1) * at_once, rows);
        int64_t size = kernels.rows;
        for (int64_t row = chunk * at_once; row < end; row += size) {
            if (size > end - row) {
                size = 8;
                while (size > end - row || size > kernels.rows) size /= 2;
            }
            work(row, size);
        }
    };
    parallel_for(chunks, rows * depth > 1 << 16 ? threads : 1, [&](int64_t from, int64_t to) {
        for (int64_t chunk = from; chunk < to; ++chunk)
            tiles(chunk, [&](int64_t row, int64_t size) {
                kernels.order({x + row * depth, size, depth, group, groups, padded, ordered + row * pitch,
                               x_sums + row * groups});
            });
    });
    parallel_for(chunks * blocks, threads, [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
            const int64_t block = i % blocks, first = block * kProduct8Lanes;
            Product8Tile tile{};
            tile.bits = bits, tile.groups = groups, tile.steps = steps;
            tile.scale = scale_.get() + block * groups * kProduct8Lanes;
            tile.count = std::min(kProduct8Lanes, filters - first), tile.pitch_y = filters;
            static thread_local std::vector<uint8_t> quads;
            tile.weights = tile_weights(block, quads);
            // The next block of filters arrives while this one is multiplied.
            const int64_t bytes = groups * steps * kProduct8Step, share = chunks > 1 ? bytes / ceil_div(at_once, kernels.rows) : 0;
            const uint8_t *next = weights_.get() + (block + 1) * bytes;
            const uint8_t *const end = block + 1 < blocks ? next + bytes : next;
            tiles(i / blocks, [&](int64_t row, int64_t size) {
                for (const uint8_t *to = std::min(next + share, end); next < to; next += 64) __builtin_prefetch(next, 0, 2);
                const int64_t at = row * filters + first;
                tile.x = ordered + row * pitch;
                tile.rows = size;
                tile.x_sums = x_sums + row * groups;
                tile.sums = sums == nullptr ? nullptr : sums + at;
                tile.scaled = scaled == nullptr ? nullptr : scaled + at;
                tile.x_scale = x_scale == nullptr ? nullptr : x_scale + row;
                kernels.tile(tile);
            });
        }
    });
    if (kept.size() > kKept) kept = {}, kept_sums = {};
}

const uint8_t *Product8Filters::tile_weights(int64_t block, std::vector<uint8_t> &quads) const {
    if (!by_bytes_) return weights_.get() + block * groups * steps * kProduct8Step;
    quads.resize(static_cast<size_t>(steps * kProduct8Step));
    kernels_.lookup->to_tile(weights_.get() + block / 2 * 2 * steps * kProduct8Step, steps * kProduct8Quad,
                             static_cast<int>(block % 2), quads.data());
    return quads.data();
}

// Many rows, a multiple of those of the tables.
void Product8Filters::tabulate(const int8_t *x, int64_t rows, int32_t *sums, float *scaled, const float *x_scale,
                               int threads) const {
    static thread_local Workspace kept;
    const Product8Tables &tables = *kernels_.tables;
    const Product8Tables::Kind &kind = tables.kinds[bits - 1];
    const int64_t pairs = ceil_div(steps, 2);
    for (int64_t first = 0; first < filters; first += kTogether) {
        const int64_t count = std::min(kTogether, filters - first), pitch = round_up(count, kProduct8Lanes);
        uint8_t *const indices = kept.lines(pairs * pitch * kind.bytes);
        parallel_for(pitch / kProduct8Lanes, threads, [&](int64_t from, int64_t to) {
            std::vector<uint8_t> quads;
            const uint8_t none[kProduct8Step] = {};
            for (int64_t b = from; b < to; ++b) {
                const uint8_t *weights = tile_weights(first / kProduct8Lanes + b, quads);
                for (int64_t pair = 0; pair < pairs; ++pair, weights += 2 * kProduct8Step)
                    kind.arrange(weights, 2 * pair + 1 < steps ? weights + kProduct8Step : none,
                                 indices + (pair * pitch + b * kProduct8Lanes) * kind.bytes);
            }
        });
        parallel_for(rows / tables.rows, threads, [&](int64_t from, int64_t to) {
            static thread_local Workspace work;
            for (int64_t i = from; i < to; ++i) {
                const int64_t row = i * tables.rows, at = row * filters + first;
                kind.add({x + row * depth, depth, steps, indices, pitch, count,
                          work.lines(tables.rows * (6 * pitch + 2 * group_inputs())),
                          sums == nullptr ? nullptr : sums + at, scaled == nullptr ? nullptr : scaled + at,
                          scale_.get() + first, x_scale == nullptr ? nullptr : x_scale + row, filters});
            }
        });
    }
    if (kept.kept.size() > kKept) kept = {};
}

// Few rows, with the filters divided among threads.
void Product8Filters::look_up(const int8_t *x, int64_t rows, int32_t *sums, float *scaled, const float *x_scale,
                              int threads) const {
    const int64_t vectors = steps * kProduct8Quad, pairs = ceil_div(filters, kProduct8Bytes), pitch = 8 * vectors;
    const int64_t shares = std::min<int64_t>(threads, pairs);
    parallel_for(shares, threads, [&](int64_t from, int64_t to) {
        static thread_local std::vector<int8_t> padded;
        static thread_local std::vector<int32_t> codes, x_sums;
        for (int64_t i = from; i < to; ++i) {
            const int64_t first = pairs * i / shares, blocks = pairs * (i + 1) / shares - first;
            const int64_t begin = first * kProduct8Bytes, end = std::min(filters, begin + blocks * kProduct8Bytes);
            padded.resize(static_cast<size_t>(rows * pitch));
            x_sums.resize(static_cast<size_t>(rows));
            codes.assign(static_cast<size_t>(rows * blocks * kProduct8Bytes), 0);
            for (int64_t r = 0; r < rows; ++r)
                kernels_.order({x + r * depth, 1, depth, depth, 1, pitch, padded.data() + r * pitch,
                                &x_sums[static_cast<size_t>(r)]});
            kernels_.lookup->rows({weights_.get() + begin * vectors, blocks, vectors, padded.data(), rows, codes.data()});
            for (int64_t r = 0; r < rows; ++r) {
                const int32_t *of_row = codes.data() + r * blocks * kProduct8Bytes;
                const int32_t x_sum = x_sums[static_cast<size_t>(r)];
                const int64_t at = r * filters + begin;
                if (sums != nullptr)
                    kernels_.lookup->sums(of_row, end - begin, x_sum, sums + at);
                else
                    kernels_.lookup->scaled(of_row, end - begin, x_sum, scale_.get() + begin, x_scale[r],
                                            scaled + at);
            }
        }
    });
}

}  // namespace hypersign
