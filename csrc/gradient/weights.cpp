#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#include "gradient/parts.hpp"
#include "integers.hpp"
#include "parallel.hpp"
#include "training/training.hpp"

namespace hypersign {
namespace {

constexpr int64_t kRound = 10 << 20;            // bytes of pixels' indices per round
constexpr int64_t kTables = 4 * kPiece;         // per filter and round, at most
constexpr int64_t kWide = 2 * kBuild;           // filters of a tile
constexpr int64_t kPixels = kNumbers * kPiece;  // of a piece, at most

// Pixels are taken in pieces of at most kPiece tables, and as many pieces at once, a round, as leave their tables in the
// caches.
// Several rounds are shared out among threads, which add up sums of their own; a single one shares out its filters.
class WeightGradient {
   public:
    WeightGradient(const GradientShape &shape, const int8_t *q, const uint64_t *x, int64_t pad_value)
        : s(shape), q(q), x(x), pad_value(pad_value), kernels(*current_kernels().gradient),
          taps(s.kernel[0] * s.kernel[1]), words(ceil_div(s.channels, 64)), blocks(ceil_div(s.channels, kBlock)),
          wide(std::min(kWide, s.filters)), reach((s.kernel[0] - 1) * s.dilation[0]),
          side_by_side(images_of_line(s)), line(s.columns * side_by_side), by_rows(side_by_side > 0),
          // Binary words have no 0: where zeros are padded, +1 is read, and what that adds is taken off at the end.
          padded(s.planes == 1 && !pad_value && (s.padding[0] || s.padding[1])) {
        int64_t lines = by_rows ? kPixels / line : 0;  // of a piece
        if (lines >= s.rows) lines -= lines % s.rows;
        pixels = by_rows ? ceil_div(s.images, side_by_side) * s.rows * line : s.images * s.rows * s.columns;
        piece_pixels = by_rows ? lines * line : kPixels;
        row_bytes = piece_pixels / kNumbers * kTable + 64;
        slots = by_rows ? lines + (ceil_div(lines, s.rows) + 1) * reach : 0;
        lists = blocks * (by_rows ? s.kernel[1] : taps);
        list_bytes = by_rows ? slots * line / kNumbers * kIndices : kPiece * kIndices;
    }

    void run(const float *scales, const uint64_t *inside, float *out, int threads) {
        const int64_t piece = lists * s.planes * list_bytes, pieces = ceil_div(pixels, piece_pixels);
        const int64_t most = std::clamp<int64_t>(kRound / piece, 1, kTables * kNumbers / piece_pixels);
        const int64_t rounds = ceil_div(pieces, most);
        const Writer writer{scales, inside, out, s.planes == 2 ? 0.5f : 1.0f, streams(out, s.filters * taps, s.channels)};
        if (rounds == 1) {
            Totals totals = make_totals(false);
            add_round(0, pieces, threads, totals, &writer);
            return;
        }
        std::vector<Totals> all;  // of threads
        std::mutex mutex;
        const bool few = rounds < 2 * threads;  // then threads share out each round
        parallel_for(few ? 1 : rounds, few ? 1 : threads, [&](int64_t first, int64_t last) {
            Totals totals;
            {
                std::lock_guard lock(mutex);
                if (!all.empty()) {
                    totals = std::move(all.back());
                    all.pop_back();
                }
            }
            if (totals.sums.empty()) totals = make_totals(true);
            for (int64_t round = few ? 0 : first; round < (few ? rounds : last); ++round)
                add_round(pieces * round / rounds, pieces * (round + 1) / rounds, few ? threads : 1, totals, nullptr);
            std::lock_guard lock(mutex);
            all.push_back(std::move(totals));
        });
        for (size_t i = 1; i < all.size(); ++i)
            for (size_t k = 0; k < all[0].border.size(); ++k) all[0].border[k] += all[i].border[k];
        parallel_for(s.filters, threads, [&](int64_t first, int64_t last) {
            const int32_t bias[kBlock] = {};
            for (int64_t i = first * taps * blocks; i < last * taps * blocks; ++i) {
                const int64_t row = i / blocks, block = i % blocks, at = row * s.channels + block * kBlock;
                const int64_t channels = std::min(kBlock, s.channels - block * kBlock);
                int32_t sums[kBlock] = {};
                for (const Totals &each : all)
                    for (int64_t c = 0; c < channels; ++c) sums[c] += each.sums[static_cast<size_t>(at + c)];
                write(writer, row / taps, row % taps, block, sums, bias, all[0]);
            }
        });
    }

   private:
    // As many images side by side as fill a piece, if they leave few empty places; 0 where lines do not fit.
    static int64_t images_of_line(const GradientShape &s) {
        if (s.stride[0] != 1 || s.stride[1] != 1 || s.columns % kNumbers) return 0;
        int64_t best = 0;
        for (int64_t count = 1; count * s.columns <= kPixels && (count <= 2 || count * s.rows * s.columns <= kPixels);
             ++count) {
            if (count * s.columns % kPair) continue;
            const auto empty = [&](int64_t n) { return round_up(s.images, n) - s.images; };
            if (!best || empty(count) <= empty(best)) best = count;
        }
        return best;
    }

    // Sums as integers, in the order of the output, and those of padded pixels: [tap][filter].
    struct Totals {
        std::vector<int32_t> sums, border;
    };
    struct Writer {
        const float *scales;
        const uint64_t *inside;
        float *out;
        float factor;
        bool stream;
    };
    // Lines of one image, or of two side by side, in a piece: the first is row `top` of the image and line `row` of the
    // piece; their inputs begin at slot `slot`.
    struct Portion {
        int64_t image, top, row, count, slot;
    };
    // A round has the indices, [piece][list][plane]; the sums of their signs, [piece][block][tap][channel]; and the lines
    // of each piece, or without lines, which pixel a tap reads, -1 for a padded one: [piece][tap][pixel].
    struct Levels {
        uint8_t *indices;
        std::vector<int32_t> signs;
        std::vector<std::vector<Portion>> portions;
        std::vector<int32_t> sources;
    };

    Totals make_totals(bool sums) const {
        return {std::vector<int32_t>(static_cast<size_t>(sums ? s.filters * taps * s.channels : 0)),
                std::vector<int32_t>(static_cast<size_t>(padded ? taps * s.filters : 0))};
    }

    int64_t pixels_of(int64_t piece) const { return std::min(piece_pixels, pixels - piece * piece_pixels); }

    void add_round(int64_t first, int64_t last, int threads, Totals &totals, const Writer *writer) {
        const int64_t tiles = ceil_div(s.filters, wide), runs = blocks * taps;
        Levels levels{scratch<Indices>((last - first) * lists * s.planes * list_bytes),
                      std::vector<int32_t>(static_cast<size_t>((last - first) * runs * kBlock)),
                      {},
                      std::vector<int32_t>(static_cast<size_t>(by_rows ? 0 : (last - first) * taps * kPixels))};
        for (int64_t piece = first; by_rows && piece < last; ++piece) levels.portions.push_back(portions(piece));
        if (padded || !by_rows)
            parallel_for(taps, threads, [&](int64_t from, int64_t to) {
                for (int64_t tap = from; tap < to; ++tap) find_sources(tap, first, last, levels, totals);
            });
        parallel_for((last - first) * lists, threads, [&](int64_t from, int64_t to) {
            for (int64_t i = from; i < to; ++i)
                by_rows ? spread_rows(i % lists, i, levels)
                        : spread_pixels(first + i / lists, i % lists, i, levels);
        });
        // Few filters leave few tiles: then taps and blocks of channels are shared out too, at the price of tables built
        // more than once.
        const int64_t shares = threads == 1 ? 1 : std::min(runs, ceil_div(2 * threads, tiles));
        parallel_for(tiles * shares, threads, [&](int64_t from, int64_t to) {
            uint8_t *const built = scratch<Tables>((last - first) * kWide * row_bytes + kTable);
            for (int64_t item = from; item < to; ++item) {
                const int64_t filter = item / shares * wide, share = item % shares;
                for (int64_t piece = first; piece < last; ++piece)
                    build(piece, filter, built + (piece - first) * kWide * row_bytes);
                for (int64_t i = runs * share / shares; i < runs * (share + 1) / shares; ++i)
                    look(first, last, filter, i % taps, i / taps, built, levels, totals, writer);
            }
        });
    }

    // The input's row or column under a tap, minus that of the output.
    int64_t offset(int axis, int64_t tap) const { return tap * s.dilation[axis] - s.padding[axis]; }

    // Which pixels a tap reads; adds the gradients of padded ones to the border.
    void find_sources(int64_t tap, int64_t first, int64_t last, Levels &levels, Totals &totals) const {
        const int64_t down = offset(0, tap / s.kernel[1]), right = offset(1, tap % s.kernel[1]);
        int32_t *sums = totals.border.data() + (padded ? tap * s.filters : 0);
        const int64_t begin = first * piece_pixels, end = std::min(s.images * s.rows * s.columns, last * piece_pixels);
        for (int64_t p = begin; p < end;) {  // rows of outputs
            const int64_t output = p / s.columns, start = p % s.columns;
            const int64_t stop = std::min(s.columns, start + end - p);
            const int64_t row = output % s.rows * s.stride[0] + down;
            const bool row_inside = row >= 0 && row < s.height;
            const int64_t from = (output / s.rows * s.height + row) * s.width;
            for (int64_t c = start; c < stop; ++c, ++p) {
                const int64_t column = c * s.stride[1] + right;
                const bool inside = row_inside && column >= 0 && column < s.width;
                if (!by_rows) {
                    const int64_t piece = (p - begin) / kPixels, at = (piece * taps + tap) * kPixels + p % kPixels;  // here all are full
                    levels.sources[static_cast<size_t>(at)] = inside ? static_cast<int32_t>(from + column) : -1;
                }
                if (padded && !inside) kernels.add(q + p * s.filters, s.filters, sums);
            }
        }
    }

    // 32 channels of a pixel, for a plane; `from` is -1 for a padded one.
    uint32_t bits(int64_t from, int64_t block, int64_t plane) const {
        const int64_t word = block * kBlock / 64, shift = block * kBlock % 64;
        if (from < 0) return s.planes == 1 || pad_value ? 0 : choice(plane, 0, 0);
        const uint64_t *at = x + from * words + word;
        const auto sign = static_cast<uint32_t>(*at >> shift);
        if (s.planes == 1) return sign;
        return choice(plane, sign, static_cast<uint32_t>(at[s.images * s.height * s.width * words] >> shift));
    }

    // Indices of a tap and a block of channels, in the order of pixels.
    void spread_pixels(int64_t piece, int64_t list, int64_t number, Levels &levels) const {
        const int64_t block = list / taps, tap = list % taps, count = pixels_of(piece);
        const int32_t *sources = levels.sources.data() + (number / lists * taps + tap) * kPixels;
        int32_t *signs = levels.signs.data() + (number / lists * lists + list) * kBlock;
        for (int64_t plane = 0; plane < s.planes; ++plane)
            for (int64_t start = 0; start < count; start += kPair) {
                uint32_t numbers[kPair] = {};
                for (int64_t j = 0; j < std::min(kPair, count - start); ++j)
                    numbers[place(j)] = bits(sources[start + j], block, plane);
                kernels.spread(numbers,
                               levels.indices + (number * s.planes + plane) * list_bytes + start / kNumbers * kIndices,
                               signs);
            }
    }

    // Lines of a piece, image by image.
    std::vector<Portion> portions(int64_t piece) const {
        std::vector<Portion> found;
        const int64_t start = piece * piece_pixels / line, rows = pixels_of(piece) / line;
        for (int64_t row = 0, slot = 0; row < rows;) {
            const int64_t top = (start + row) % s.rows, count = std::min(s.rows - top, rows - row);
            found.push_back({(start + row) / s.rows, top, row, count, slot});
            slot += count + reach;
            row += count;
        }
        return found;
    }

    // Indices of a column of taps and a block of channels: a slot for each row of inputs, which all taps of the column
    // share.
    void spread_rows(int64_t list, int64_t number, Levels &levels) const {
        const int64_t block = list / s.kernel[1], right = offset(1, list % s.kernel[1]);
        static thread_local std::vector<int32_t> signs_of_slots;
        signs_of_slots.assign(static_cast<size_t>(slots * kBlock), 0);
        for (const Portion &portion : levels.portions[static_cast<size_t>(number / lists)])
            for (int64_t i = 0; i < portion.count + reach; ++i) {
                const int64_t slot = portion.slot + i, row = portion.top + i - s.padding[0];
                const bool inside = row >= 0 && row < s.height;
                int32_t *signs = signs_of_slots.data() + slot * kBlock;
                for (int64_t plane = 0; plane < s.planes; ++plane) {
                    uint8_t *to = levels.indices + (number * s.planes + plane) * list_bytes +
                                  slot * line / kNumbers * kIndices;
                    for (int64_t start = 0; start < line; start += kPair, to += 2 * kIndices) {
                        uint32_t numbers[kPair];
                        for (int64_t half = 0; half < kPair; half += kNumbers) {
                            const int64_t image = portion.image * side_by_side + (start + half) / s.columns;
                            const int64_t first = (start + half) % s.columns + right;
                            const int64_t from = (image * s.height + row) * s.width + first;
                            const int64_t width = inside && image < s.images ? s.width : 0;
                            for (int64_t j = 0; j < kNumbers; ++j) {
                                const bool read = first + j >= 0 && first + j < width;
                                numbers[place(half + j)] = bits(read ? from + j : -1, block, plane);
                            }
                        }
                        kernels.spread(numbers, to, signs);
                    }
                }
            }
        for (int64_t i = 0; i < s.kernel[0]; ++i) {
            const int64_t tap = i * s.kernel[1] + list % s.kernel[1];
            int32_t *to = levels.signs.data() + ((number / lists * blocks + block) * taps + tap) * kBlock;
            for (const Portion &portion : levels.portions[static_cast<size_t>(number / lists)]) {
                const int32_t *sign = signs_of_slots.data() + (portion.slot + i * s.dilation[0]) * kBlock;
                for (int64_t k = 0; k < portion.count * kBlock; ++k) to[k % kBlock] += sign[k];
            }
        }
    }

    // The output pixel of a table's first number, and how many of its numbers are there.
    int64_t first_pixel(int64_t piece, int64_t table, int64_t &count) const {
        const int64_t start = piece * piece_pixels + kNumbers * table;
        if (!by_rows) {
            count = std::clamp<int64_t>(pixels - start, 0, kNumbers);
            return start;
        }
        const int64_t row = start / line, image = row / s.rows * side_by_side + start % line / s.columns;
        count = image < s.images ? kNumbers : 0;
        return (image * s.rows + row % s.rows) * s.columns + start % line % s.columns;
    }

    // Tables of a piece and a tile of filters.
    void build(int64_t piece, int64_t filter, uint8_t *built) const {
        const int64_t filters = std::min(wide, s.filters - filter);
        for (int64_t t = 0; t < 2 * ceil_div(pixels_of(piece), kPair); ++t) {
            int64_t rows;
            const int8_t *const tile = q + first_pixel(piece, t, rows) * s.filters + filter;
            for (int64_t f = 0; f < filters; f += kBuild) {
                const int8_t *numbers = tile + f;
                int64_t pitch = s.filters;
                int8_t copy[kNumbers * kBuild];
                if (rows < kNumbers || filters - f < kBuild) {
                    std::memset(copy, 0, sizeof copy);
                    for (int64_t j = 0; j < rows; ++j)
                        std::memcpy(copy + j * kBuild, numbers + j * pitch,
                                    static_cast<size_t>(std::min(kBuild, filters - f)));
                    numbers = copy;
                    pitch = kBuild;
                }
                kernels.build(numbers, pitch, built + f * row_bytes + t * kTable, row_bytes);
            }
        }
    }

    // Where the indices of a tap and a block in a piece lie; adds their signs to the bias.
    void find(int64_t piece, int64_t number, int64_t tap, int64_t block, const Levels &levels,
              std::vector<Segment> &segments, int32_t *bias) const {
        const int32_t *sign = levels.signs.data() + ((number * blocks + block) * taps + tap) * kBlock;
        for (int64_t c = 0; c < kBlock; ++c) bias[c] += static_cast<int32_t>(kTableBias) * sign[c];
        segments.clear();
        const auto add = [&](int64_t first, const uint8_t *index, int64_t tables) {
            for (int64_t t = 0; t < tables; t += kFlush)
                segments.push_back({(first + t) * kTable, index + t * kIndices, std::min(kFlush, tables - t)});
        };
        const int64_t list = number * lists + (by_rows ? block * s.kernel[1] + tap % s.kernel[1] : block * taps + tap);
        const int64_t down = tap / s.kernel[1] * s.dilation[0], line_tables = line / kNumbers;
        for (int64_t plane = 0; plane < s.planes; ++plane) {
            const uint8_t *index = levels.indices + (list * s.planes + plane) * list_bytes;
            if (!by_rows) {
                add(0, index, 2 * ceil_div(pixels_of(piece), kPair));
                continue;
            }
            for (const Portion &portion : levels.portions[static_cast<size_t>(number)])
                add(portion.row * line_tables, index + (portion.slot + down) * line_tables * kIndices,
                    portion.count * line_tables);
        }
    }

    // The sums of a tile of filters for a tap and a block of channels; to `totals`, or with a writer to the output.
    void look(int64_t first, int64_t last, int64_t filter, int64_t tap, int64_t block, const uint8_t *built,
              const Levels &levels, Totals &totals, const Writer *writer) const {
        const int64_t filters = std::min(wide, s.filters - filter);
        const int64_t channels = std::min(kBlock, s.channels - block * kBlock);
        const auto at = [&](int64_t f) { return ((filter + f) * taps + tap) * s.channels + block * kBlock; };
        if (writer && !writer->stream)  // no prefetcher follows as many rows; they arrive during the lookups
            for (int64_t f = 0; f < filters; ++f)
                for (int64_t c = 0; c < channels; c += 16) __builtin_prefetch(writer->out + at(f) + c, 1);
        int32_t sums[kWide][kBlock], bias[kBlock] = {};
        std::memset(sums, 0, static_cast<size_t>(filters) * sizeof *sums);
        if (!writer)
            for (int64_t f = 0; f < filters; ++f)
                std::memcpy(sums[f], totals.sums.data() + at(f), static_cast<size_t>(channels) * sizeof(int32_t));
        static thread_local std::vector<Segment> segments;
        for (int64_t piece = first; piece < last; ++piece) {
            find(piece, piece - first, tap, block, levels, segments, bias);
            const uint8_t *from[kWide];
            for (int64_t f = 0; f < filters; ++f) from[f] = built + ((piece - first) * kWide + f) * row_bytes;
            for (int64_t f = 0; f < filters; f += kRows)
                kernels.look(from + f, std::min(kRows, filters - f), segments.data(),
                             static_cast<int64_t>(segments.size()), sums + f);
        }
        for (int64_t f = 0; f < filters; ++f) {
            if (writer) {
                write(*writer, filter + f, tap, block, sums[f], bias, totals);
                continue;
            }
            for (int64_t c = 0; c < channels; ++c)
                totals.sums[static_cast<size_t>(at(f) + c)] = sums[f][c] - bias[c];
        }
    }

    void write(const Writer &to, int64_t filter, int64_t tap, int64_t block, int32_t *sums, const int32_t *bias,
               const Totals &totals) const {
        if (padded)
            for (int64_t c = 0; c < kBlock; ++c) sums[c] -= totals.border[static_cast<size_t>(tap * s.filters + filter)];
        const int64_t row_words = ceil_div(taps * s.channels, 64);
        const uint32_t kept = to.inside ? bits_at(to.inside + filter * row_words, row_words,
                                                  tap * s.channels + block * kBlock)
                                        : ~uint32_t{0};
        kernels.write(sums, bias, to.scales[filter] * to.factor, kept, std::min(kBlock, s.channels - block * kBlock),
                      to.stream, to.out + (filter * taps + tap) * s.channels + block * kBlock);
    }

    const GradientShape &s;
    const int8_t *const q;
    const uint64_t *const x;
    const int64_t pad_value;
    const GradientKernels &kernels;
    const int64_t taps, words, blocks, wide;
    const int64_t reach;         // rows of inputs that an output row reads besides one
    const int64_t side_by_side;  // images whose rows together make lines, of whole pairs of tables
    const int64_t line;          // pixels of a line
    const bool by_rows;          // numbers are taken line by line, and the taps of a column share their indices
    const bool padded;
    int64_t pixels, piece_pixels;  // of all lines, and of those of a piece
    int64_t row_bytes;             // of tables, from filter to filter; a power of two would share cache sets
    int64_t slots;                 // of a list, for lines of inputs
    int64_t lists, list_bytes;     // of a piece: indices of a tap, or of a column of taps, for a block of channels
};

}  // namespace

void weight_gradient(const GradientShape &s, const int8_t *q, const float *scales, const uint64_t *x,
                     int64_t pad_value, const uint64_t *inside, float *out, int threads) {
    if (s.filters == 0) return;
    if (s.images * s.rows * s.columns == 0) {
        std::fill(out, out + s.filters * s.kernel[0] * s.kernel[1] * s.channels, 0.0f);
        return;
    }
    WeightGradient(s, q, x, pad_value).run(scales, inside, out, threads);
}

}  // namespace hypersign
