#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>
#include <utility>

#include "parallel.hpp"
#include "product/product.hpp"

namespace hypersign {
namespace {

constexpr int64_t kUsesBeforeNumbers = 16;

int64_t words_of(int64_t bits, int64_t size) { return (bits + size - 1) / size; }

// `count` bits, at most 32, of a row of words.
uint32_t bits_at(const uint64_t *row, int64_t first, int64_t count) {
    const int64_t shift = first % 64;
    uint64_t bits = row[first / 64] >> shift;
    if (shift + count > 64) bits |= row[first / 64 + 1] << (64 - shift);
    return static_cast<uint32_t>(bits & (~uint64_t{0} >> (64 - count)));
}

// Copies `count` bits; the destination's are 0 before.
void copy_bits(const uint64_t *from, int64_t first, int64_t count, uint32_t *to, int64_t at) {
    for (int64_t i = 0; i < count;) {
        const int64_t shift = (at + i) % 32, size = std::min(count - i, 32 - shift);
        to[(at + i) / 32] |= bits_at(from, first + i, size) << shift;
        i += size;
    }
}

void set_bits(uint32_t *to, int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) to[i / 32] |= uint32_t{1} << (i % 32);
}

int32_t count_bits(const uint32_t *words, int64_t n) {
    int32_t sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += __builtin_popcount(words[i]);
    return sum;
}

// Booleans as bits, padded by 0.
std::vector<uint16_t> packed(const bool *values, int64_t n, int64_t padded) {
    std::vector<uint16_t> bits(padded / 16);
    for (int64_t i = 0; i < n; i += 8) {
        uint64_t eight = 0;
        std::memcpy(&eight, values + i, std::min<int64_t>(8, n - i));
        // Byte j, times 2^(56 - 7 j), has its bit at 56 + j; no two bits of the product meet.
        const uint64_t byte = (eight & 0x0101010101010101u) * 0x0102040810204080u >> 56;
        bits[i / 16] |= static_cast<uint16_t>(byte << (i % 16));
    }
    return bits;
}

// What of a filter's rows, or columns, lies on the image: [first, last), nothing: [0, 0).
using Range = std::pair<int64_t, int64_t>;

Range on_image(int64_t start, int64_t step, int64_t filter, int64_t image) {
    int64_t first = 0, last = filter;
    while (first < last && start + first * step < 0) ++first;
    while (last > first && start + (last - 1) * step >= image) --last;
    return first < last ? Range{first, last} : Range{0, 0};
}

// Classes of output rows, or columns: those whose filters meet the padding in the same way.
struct Classes {
    std::vector<int32_t> of;  // each row's class
    std::vector<Range> ranges;
};

Classes classes(const Window &window, int axis, int64_t output, int64_t filter, int64_t image) {
    Classes found;
    for (int64_t i = 0; i < output; ++i) {
        const Range range =
            on_image(i * window.stride[axis] - window.padding[axis], window.dilation[axis], filter, image);
        if (found.ranges.empty() || found.ranges.back() != range) found.ranges.push_back(range);
        found.of.push_back(static_cast<int32_t>(found.ranges.size()) - 1);
    }
    return found;
}

}  // namespace

const ProductKernels &product_kernels(Backend backend) {
    switch (backend) {
#if defined(HYPERSIGN_X86)
    case Backend::avx2:
        return product_avx2;
    case Backend::avx512:
        return product_avx512;
#elif defined(HYPERSIGN_NEON)
    case Backend::neon:
        return product_neon;
#endif
    default:
        return product_portable;
    }
}

// Groups of channels are merged until their channels fill whole words and their filters whole registers; filters are
// then ternary: 0 at the channels of other groups. So the kernels know nothing of groups, and a depthwise convolution
// is a product of 32 channels with 32 filters.
ProductFilters::ProductFilters(const ProductKernels &kernels, const uint64_t *words, int64_t filters, int64_t rows,
                               int64_t columns, int64_t depth, int64_t groups, bool ternary)
    : filters(filters), rows(rows), columns(columns), channels(depth * groups), kernels_(kernels) {
    const int64_t lanes = kernels.lanes, per_group = filters / groups, taps = rows * columns;
    const int64_t merged = std::min(groups, std::lcm(32 / std::gcd<int64_t>(32, depth), lanes / std::gcd(lanes, per_group)));
    ternary_ = ternary || merged > 1;
    padded_ = words_of(filters, lanes) * lanes;

    // Rows of filters with each tap in whole words.
    const int64_t tap_words = words_of(merged * depth, 32), row_words = taps * tap_words;
    const int64_t given = words_of(taps * depth, 64);
    std::vector<uint32_t> sign(padded_ * row_words), nonzero(ternary_ ? padded_ * row_words : 0);
    for (int64_t f = 0; f < filters; ++f)
        for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t word = f * row_words + tap * tap_words, at = f / per_group % merged * depth;
            copy_bits(words + f * given, tap * depth, depth, &sign[word], at);
            if (ternary) copy_bits(words + (filters + f) * given, tap * depth, depth, &nonzero[word], at);
            else if (ternary_) set_bits(&nonzero[word], at, depth);
        }
    if (ternary)  // a sign where there is a zero would count
        for (size_t i = 0; i < sign.size(); ++i) sign[i] &= nonzero[i];

    nonzeros_.assign(padded_, 0);
    tap_sums_.assign((rows + 1) * (columns + 1) * padded_, 0);
    for (int64_t f = 0; f < filters; ++f)
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) {
                const int64_t word = f * row_words + (i * columns + j) * tap_words;
                const int32_t n =
                    ternary_ ? count_bits(&nonzero[word], tap_words) : static_cast<int32_t>(depth);
                nonzeros_[f] += n;
                int32_t *at = &tap_sums_[((i + 1) * (columns + 1) + j + 1) * padded_ + f];
                const int64_t left = padded_, above = (columns + 1) * padded_;
                at[0] = at[-left] + at[-above] - at[-left - above] + n - 2 * count_bits(&sign[word], tap_words);
            }

    // Blocks: within a merged group, as many registers as the kernels take, then powers of two of the rest.
    const int64_t planes = ternary_ ? 2 : 1;
    for (int64_t group = 0; group < words_of(groups, merged); ++group) {
        const int64_t members = std::min(merged, groups - group * merged);
        const int64_t last = group * merged * per_group + members * per_group;
        for (int64_t f = group * merged * per_group; f < last;) {
            int64_t registers = ternary_ ? kernels.most_ternary : kernels.most_binary;
            while (registers > words_of(last - f, lanes)) registers /= 2;
            blocks_.push_back({static_cast<size_t>(f * row_words * planes), f, group * merged * depth / 32,
                               words_of(members * depth, 32), static_cast<int>(std::min(registers * lanes, last - f)),
                               static_cast<int>(registers)});
            f += registers * lanes;
        }
    }
    const size_t size = padded_ * row_words * planes;
    weights_.reset(new (std::align_val_t(64)) uint32_t[std::max<size_t>(size, 1)]);
    std::vector<uint32_t> packed_taps;
    for (const Block &block : blocks_) {
        const int count = block.registers * kernels.lanes;
        // The last group may have fewer words a tap than the rows have room for.
        const int64_t width = taps * block.words;
        std::vector<uint32_t> rows_of_block[2];
        std::vector<const uint32_t *> pointers[2];
        for (int plane = 0; plane < planes; ++plane) {
            rows_of_block[plane].resize(count * width);
            const std::vector<uint32_t> &source = plane ? nonzero : sign;
            for (int i = 0; i < count; ++i) {
                uint32_t *row = &rows_of_block[plane][i * width];
                for (int64_t tap = 0; tap < taps; ++tap)
                    std::copy_n(&source[(block.first_filter + i) * row_words + tap * tap_words], block.words,
                                row + tap * block.words);
                pointers[plane].push_back(row);
            }
        }
        kernels.arrange(pointers[0].data(), ternary_ ? pointers[1].data() : nullptr, width, count,
                        weights_.get() + block.start);
    }
}

// The filters as numbers, for transposed sweeps.
const std::vector<uint8_t> &ProductFilters::numbers() const {
    std::call_once(numbered_, [this] {
        const ProductSweeps &kernels = *kernels_.sweeps;
        const int64_t taps = rows * columns, slot = kernels.transposed_slot;
        ProductNumbers to{};
        to.ternary = ternary_;
        to.taps = taps;
        to.words = blocks_.front().words;
        to.tap = padded_ * slot;
        to.slice = taps * to.tap;
        numbers_.resize(kernels.transposed_slices(ternary_, to.words) * to.slice);
        for (const Block &block : blocks_) {
            to.block = weights_.get() + block.start;
            to.filters = block.registers * kernels_.lanes;
            to.places = numbers_.data() + block.first_filter * slot;
            kernels.transposed_number(to);
        }
    });
    return numbers_;
}

// One call: the sizes, what turns counts into sums or levels, and the words of the padding.
class ProductFilters::Convolution {
   public:
    Convolution(const ProductFilters &filters, const PackedImages &images, const Window &window,
                const ProductThresholds &thresholds, void *out);
    void run(int threads) const;

   private:
    // What all blocks share of a run of pixels: limits, pointers to the pixels of the input for tiles, and what the
    // kernels make of their words.
    struct Run {
        std::array<const int32_t *, kSweep> limits;
        std::vector<const uint32_t *> x;
        std::array<int64_t, kSweep + 1> at;
        std::vector<int64_t> taps;
        int64_t slice;
        std::vector<uint16_t> places;
        std::vector<uint8_t> numbers;
        int64_t first_word = -1, words = 0;  // that the places are of
    };
    void make_offsets(int64_t pattern, std::vector<int32_t> &offset) const;
    void make_limits(const ProductThresholds &thresholds);
    void point(const uint32_t **to, int64_t row, int64_t column, int size, int64_t line) const;
    template <typename Part>
    void parts(int64_t pixel, int64_t size, Part &&part) const;
    void limit(int64_t pixel, int64_t size, Run &run) const;
    void lay(int64_t pixel, int64_t size, Run &run) const;
    void number(const Block &block, int64_t pixel, int64_t size, Run &run) const;
    ProductTile tile_of(const Block &block, int64_t pixel, int64_t size, const Run &run) const;
    void tile(const Block &block, int64_t pixel, int64_t size, Run &run) const;
    void sweep(const Block &block, int64_t pixel, int64_t size, Run &run) const;
    void sweep_transposed(int64_t first, int64_t last) const;
    void fill(int64_t pixel, int64_t size) const;
    bool sweeps() const;
    bool transposed() const;
    std::vector<int64_t> runs(int threads) const;

    const ProductFilters &self_;
    PackedImages images_;
    const Window window_;
    const bool levels_, ternary_levels_;
    void *const out_;
    int64_t height_, width_, pixels_;        // of the output
    const uint32_t *input_;
    int planes_;
    int64_t pixel_words_, plane_;            // of the input, in words of 32 bits
    bool correct_;                           // for padding
    Classes down_, across_;                  // where it is corrected
    std::vector<int32_t> limits_;            // [pattern][table][filter]
    std::vector<uint16_t> flip_;
    std::vector<uint32_t> padding_;          // a padded pixel, plane after plane
};

ProductFilters::Convolution::Convolution(const ProductFilters &filters, const PackedImages &images,
                                         const Window &window, const ProductThresholds &thresholds, void *out)
    : self_(filters),
      images_(images),
      window_(window),
      levels_(thresholds.low != nullptr),
      ternary_levels_(thresholds.high != nullptr),
      out_(out),
      height_(window.size(0, images.height, filters.rows)),
      width_(window.size(1, images.width, filters.columns)),
      pixels_(images.n * height_ * width_) {
    const bool padded = window.padding[0] || window.padding[1];
    if (filters.rows * filters.columns == 1 && !padded && window.stride[0] == 1 && window.stride[1] == 1) {
        images_.width = width_ = pixels_;  // a matrix product: all pixels in one row
        images_.n = images_.height = height_ = 1;
    }
    // Ternary inputs are padded by zeros, or ones, and that is exact. Padding of a binary input is +1, and where it
    // should be 0, what it adds is taken off the sums' offsets, which depend on the taps that lie on the padding.
    correct_ = padded && !images_.ternary && window_.pad_value == 0;
    if (correct_) {
        down_ = classes(window_, 0, height_, self_.rows, images_.height);
        across_ = classes(window_, 1, width_, self_.columns, images_.width);
    } else {
        down_.ranges = across_.ranges = {{0, 0}};
    }
    make_limits(thresholds);
    if (levels_) flip_ = packed(thresholds.flip, self_.filters, self_.padded_);
    input_ = reinterpret_cast<const uint32_t *>(images_.words);
    planes_ = images_.ternary ? 2 : 1;
    pixel_words_ = 2 * words_of(self_.channels, 64);
    plane_ = images_.n * images_.height * images_.width * pixel_words_;
    padding_.assign(2 * pixel_words_, 0);
    if (window_.pad_value == 1) set_bits(&padding_[pixel_words_], 0, self_.channels);
}

void ProductFilters::Convolution::make_offsets(int64_t pattern, std::vector<int32_t> &offset) const {
    const int64_t padded = self_.padded_;
    if (images_.ternary) {
        offset.assign(padded, 0);
        return;
    }
    offset = self_.nonzeros_;
    if (!correct_) return;
    const int64_t wide = across_.ranges.size();
    const auto [i0, i1] = down_.ranges[pattern / wide];
    const auto [j0, j1] = across_.ranges[pattern % wide];
    auto sums = [&](int64_t i, int64_t j) { return &self_.tap_sums_[(i * (self_.columns + 1) + j) * padded]; };
    const int32_t *whole = sums(self_.rows, self_.columns);
    const int32_t *a = sums(i1, j1), *b = sums(i0, j1), *c = sums(i1, j0), *d = sums(i0, j0);
    for (int64_t f = 0; f < padded; ++f) offset[f] += a[f] - b[f] - c[f] + d[f] - whole[f];
}

void ProductFilters::Convolution::make_limits(const ProductThresholds &thresholds) {
    const int64_t padded = self_.padded_, patterns = down_.ranges.size() * across_.ranges.size();
    const int64_t tables = ternary_levels_ ? 2 : 1;
    limits_.resize(patterns * tables * padded);
    std::vector<int32_t> offset;
    int32_t *row = limits_.data();
    for (int64_t pattern = 0; pattern < patterns; ++pattern) {
        make_offsets(pattern, offset);
        if (!levels_) {
            row = std::copy(offset.begin(), offset.end(), row);
            continue;
        }
        // offset - 2 v < low where v > floor((offset - low) / 2); -v < low where v > -low. Thresholds beyond every
        // sum are brought near, so that nothing overflows.
        const int32_t most = static_cast<int32_t>(self_.channels * self_.rows * self_.columns) + 1;
        for (int table = 0; table < tables; ++table, row += padded) {
            const int32_t *limit = table ? thresholds.high : thresholds.low;
            const int shift = images_.ternary ? 0 : 1;
            for (int64_t f = 0; f < self_.filters; ++f)
                row[f] = (offset[f] - std::clamp(limit[f], -most, most)) >> shift;
            // Past the last filter: never -1, never +1, so that the bits are 0.
            std::fill(row + self_.filters, row + padded, table ? INT32_MIN : INT32_MAX);
        }
    }
}

// Pointers to the words under one tap of `size` pixels side by side, the first at (row, column) of the image, which
// may lie on the padding; `line` is the image's row in words.
void ProductFilters::Convolution::point(const uint32_t **to, int64_t row, int64_t column, int size,
                                        int64_t line) const {
    const int64_t stride = window_.stride[1], width = row < 0 || row >= images_.height ? 0 : images_.width;
    int first = 0, last = size;  // on the image
    while (last > 0 && column + (last - 1) * stride >= width) --last;
    while (first < last && column + first * stride < 0) ++first;
    for (int plane = 0; plane < planes_; ++plane, to += kPixels, line += plane_) {
        const uint32_t *padding = padding_.data() + plane * pixel_words_;
        for (int p = 0; p < first; ++p) to[p] = padding;
        const uint32_t *at = input_ + (line + (column + first * stride) * pixel_words_);
        for (int p = first; p < last; ++p, at += stride * pixel_words_) to[p] = at;
        for (int p = last; p < size; ++p) to[p] = padding;
    }
}

// Calls part(image, row, column, done, count) for each row of the output, or what of it is in a run of pixels: its place,
// pixels done before, and pixels.
template <typename Part>
void ProductFilters::Convolution::parts(int64_t pixel, int64_t size, Part &&part) const {
    int64_t column = pixel % width_, row = pixel / width_ % height_, image = pixel / width_ / height_;
    for (int64_t done = 0; done < size;) {
        const int64_t count = std::min(width_ - column, size - done);
        part(image, row, column, done, count);
        done += count;
        column = 0;
        if (++row == height_) row = 0, ++image;
    }
}

void ProductFilters::Convolution::limit(int64_t pixel, int64_t size, Run &run) const {
    const int64_t wide = across_.ranges.size(), table = (ternary_levels_ ? 2 : 1) * self_.padded_;
    parts(pixel, size, [&](int64_t, int64_t row, int64_t column, int64_t done, int64_t count) {
        for (int64_t p = 0; p < count; ++p) {
            const int64_t pattern = correct_ ? down_.of[row] * wide + across_.of[column + p] : 0;
            run.limits[done + p] = &limits_[pattern * table];
        }
    });
}

// Pointers to the pixels of the input under a tile.
void ProductFilters::Convolution::lay(int64_t pixel, int64_t size, Run &run) const {
    run.x.resize(self_.rows * self_.columns * planes_ * kPixels);
    parts(pixel, size, [&](int64_t image, int64_t row, int64_t column, int64_t done, int64_t count) {
        const int64_t top = row * window_.stride[0] - window_.padding[0];
        const int64_t left = column * window_.stride[1] - window_.padding[1];
        const uint32_t **to = run.x.data() + done;
        for (int64_t i = 0; i < self_.rows; ++i) {
            const int64_t y = top + i * window_.dilation[0];
            const int64_t line = (image * images_.height + y) * images_.width * pixel_words_;
            for (int64_t j = 0; j < self_.columns; ++j, to += planes_ * kPixels)
                point(to, y, left + j * window_.dilation[1], static_cast<int>(count), line);
        }
    });
}

// Numbers of the input under a sweep: lines of pixels, with those of the padding, image after image.
void ProductFilters::Convolution::number(const Block &block, int64_t pixel, int64_t size, Run &run) const {
    const ProductSweeps &kernels = *self_.kernels_.sweeps;
    const int64_t slot = kernels.slot;
    const int64_t last_tap[2] = {(self_.rows - 1) * window_.dilation[0], (self_.columns - 1) * window_.dilation[1]};
    // Columns: all, or those under one row's part.
    int64_t first = 0, last = width_ - 1;
    if (pixel / width_ == (pixel + size - 1) / width_) first = pixel % width_, last = (pixel + size - 1) % width_;
    const int64_t left = first * window_.stride[1] - window_.padding[1];
    const int64_t width = last * window_.stride[1] - window_.padding[1] + last_tap[1] + 1 - left;

    std::vector<std::pair<int64_t, int64_t>> lines;  // image and row
    int64_t begin = 0;                               // of an image's lines
    parts(pixel, size, [&](int64_t image, int64_t row, int64_t column, int64_t done, int64_t part) {
        const int64_t y = row * window_.stride[0] - window_.padding[0];
        if (lines.empty() || lines.back().first != image) {
            begin = lines.size();
            lines.push_back({image, y});
        }
        while (lines.back().second < y + last_tap[0]) lines.push_back({image, lines.back().second + 1});
        const int64_t line = begin + y - lines[begin].second;
        for (int64_t p = 0; p < part; ++p)
            run.at[done + p] = (line * width + (column + p) * window_.stride[1] - window_.padding[1] - left) * slot;
    });
    run.at[size] = 0;
    run.taps.clear();
    for (int64_t i = 0; i < self_.rows; ++i)
        for (int64_t j = 0; j < self_.columns; ++j)
            run.taps.push_back((i * window_.dilation[0] * width + j * window_.dilation[1]) * slot);

    const int64_t slices = kernels.slices(images_.ternary, block.words);
    run.slice = static_cast<int64_t>(lines.size()) * width * slot;
    run.numbers.resize(slices * run.slice);
    const uint32_t *padding = padding_.data() + block.first_word;
    const int64_t inside[2] = {std::clamp<int64_t>(-left, 0, width), std::clamp<int64_t>(images_.width - left, 0, width)};
    uint8_t *to = run.numbers.data();
    auto write = [&](const uint32_t *sign, const uint32_t *nonzero, int64_t pixels, int64_t stride) {
        constexpr int64_t kNear = 64;  // pixels whose words stay in the cache for all slices
        for (int64_t p = 0; p < pixels; p += kNear) {
            const int64_t near = std::min(kNear, pixels - p);
            for (int64_t slice = 0; slice < slices; ++slice)
                kernels.number(sign + p * stride, images_.ternary ? nonzero + p * stride : nullptr, block.words, near,
                               stride, slice, to + slice * run.slice);
            to += near * slot;
        }
    };
    for (const auto &[image, y] : lines) {
        const bool on = y >= 0 && y < images_.height;
        const int64_t from = on ? inside[0] : width, until = on ? std::max(inside[0], inside[1]) : width;
        write(padding, padding + pixel_words_, from, 0);
        if (until > from) {
            const int64_t at = ((image * images_.height + y) * images_.width + left + from) * pixel_words_;
            const uint32_t *words = input_ + at + block.first_word;
            write(words, words + plane_, until - from, pixel_words_);
        }
        write(padding, padding + pixel_words_, width - until, 0);
    }
}

ProductTile ProductFilters::Convolution::tile_of(const Block &block, int64_t pixel, int64_t size,
                                                 const Run &run) const {
    ProductTile tile{};
    tile.ternary_x = images_.ternary;
    tile.ternary_w = self_.ternary_;
    tile.registers = block.registers;
    tile.pixels = size;
    tile.taps = self_.rows * self_.columns;
    tile.words = block.words;
    tile.first_word = block.first_word;
    tile.weights = self_.weights_.get() + block.start;
    tile.limits = run.limits.data();
    tile.first_filter = block.first_filter;
    tile.high_stride = self_.padded_;
    tile.flip = flip_.data() + block.first_filter / 16;
    tile.filters = block.filters;
    const int64_t pieces = 4 * words_of(self_.filters, 64);
    if (levels_) {
        tile.levels = static_cast<uint16_t *>(out_) + pixel * pieces + block.first_filter / 16;
        tile.levels_stride = pieces;
        tile.levels_plane = ternary_levels_ ? pixels_ * pieces : 0;
    } else {
        tile.sums = static_cast<int32_t *>(out_) + pixel * self_.filters + block.first_filter;
        tile.sums_stride = self_.filters;
    }
    return tile;
}

void ProductFilters::Convolution::tile(const Block &block, int64_t pixel, int64_t size, Run &run) const {
    ProductTile tile = tile_of(block, pixel, size, run);
    tile.x = run.x.data();
    if (self_.kernels_.place) {
        if (run.first_word != block.first_word || run.words != block.words) {
            run.places.resize(self_.kernels_.room(tile));
            self_.kernels_.place(tile, run.places.data());
            run.first_word = block.first_word;
            run.words = block.words;
        }
        tile.places = run.places.data();
    }
    self_.kernels_.tile(tile);
}

void ProductFilters::Convolution::sweep(const Block &block, int64_t pixel, int64_t size, Run &run) const {
    if (run.first_word != block.first_word || run.words != block.words) {
        number(block, pixel, size, run);
        run.first_word = block.first_word;
        run.words = block.words;
    }
    ProductSweep sweep{};
    sweep.tile = tile_of(block, pixel, size, run);
    sweep.block = sweep.tile.weights;
    sweep.rows = size;
    sweep.places = run.numbers.data();
    sweep.at = run.at.data();
    sweep.taps = run.taps.data();
    sweep.slice = run.slice;
    self_.kernels_.sweeps->run(sweep);
}

// Filters [first, last), whole registers, with all pixels.
void ProductFilters::Convolution::sweep_transposed(int64_t first, int64_t last) const {
    const ProductSweeps &kernels = *self_.kernels_.sweeps;
    Block block = self_.blocks_.front();
    block.first_filter = first;
    block.filters = static_cast<int>(std::min(last, self_.filters) - first);
    block.registers = kTransposedPixels / self_.kernels_.lanes;
    Run run;
    limit(0, pixels_, run);
    lay(0, pixels_, run);
    const ProductTile tile = tile_of(block, 0, pixels_, run);
    const int64_t tap_words = block.words * planes_ * kTransposedPixels;
    const std::unique_ptr<uint32_t[], Free> pixels(new (std::align_val_t(64)) uint32_t[tile.taps * tap_words]);
    for (int64_t tap = 0; tap < tile.taps; ++tap) {
        const uint32_t **x = run.x.data() + tap * planes_ * kPixels;
        for (int plane = 0; plane < planes_; ++plane)
            std::fill(x + plane * kPixels + pixels_, x + plane * kPixels + kTransposedPixels, x[plane * kPixels]);
        self_.kernels_.arrange(x, images_.ternary ? x + kPixels : nullptr, block.words, kTransposedPixels,
                               pixels.get() + tap * tap_words);
    }
    ProductSweep sweep{};
    sweep.tile = tile;
    sweep.block = pixels.get();
    sweep.rows = last - first;
    sweep.places = self_.numbers().data();
    sweep.slice = tile.taps * self_.padded_ * kernels.transposed_slot;
    for (int64_t filter = first; filter < last; ++filter) run.at[filter - first] = filter * kernels.transposed_slot;
    run.at[last - first] = 0;
    for (int64_t tap = 0; tap < tile.taps; ++tap) run.taps.push_back(tap * self_.padded_ * kernels.transposed_slot);
    sweep.at = run.at.data();
    sweep.taps = run.taps.data();
    kernels.transposed_run(sweep);
}

// Zeros, in what of the last word of levels no register reaches.
void ProductFilters::Convolution::fill(int64_t pixel, int64_t size) const {
    const int64_t written = self_.padded_ / 16, pieces = 4 * words_of(self_.filters, 64);
    if (!levels_ || written == pieces) return;
    auto levels = static_cast<uint16_t *>(out_);
    for (int plane = 0; plane <= ternary_levels_; ++plane)
        for (int64_t p = plane * pixels_ + pixel; p < plane * pixels_ + pixel + size; ++p)
            std::fill(levels + p * pieces + written, levels + (p + 1) * pieces, uint16_t{0});
}

bool ProductFilters::Convolution::sweeps() const {
    const ProductSweeps *kernels = self_.kernels_.sweeps;
    const Block &first = self_.blocks_.front();
    const int64_t taps = self_.rows * self_.columns;
    // All pixels under a run become numbers, even those that a window leaves out.
    const bool dense = window_.stride[0] * window_.stride[1] <= 4 * taps &&
                       std::max(window_.dilation[0], window_.dilation[1]) <= 4;
    return kernels && dense && kernels->better(pixels_, 32 * first.words * taps, first.registers);
}

// Filters become numbers when they are used again and again: that takes as long as some ten products.
bool ProductFilters::Convolution::transposed() const {
    const ProductSweeps *kernels = self_.kernels_.sweeps;
    const int64_t taps = self_.rows * self_.columns;
    return kernels && images_.ternary == self_.ternary_ && self_.blocks_.back().first_word == 0 &&
           kernels->transposed_better(pixels_, 32 * self_.blocks_.front().words * taps, self_.filters) &&
           self_.uses_++ >= kUsesBeforeNumbers;
}

// Where runs of pixels begin, and the end. Those of sweeps are whole rows of the output, or lie in one: they share the
// numbers of the input. There are enough of them for all threads.
std::vector<int64_t> ProductFilters::Convolution::runs(int threads) const {
    std::vector<int64_t> begin;
    const int64_t blocks = self_.blocks_.size();
    if (!sweeps()) {
        int64_t size = levels_ ? self_.kernels_.pixels_to_levels : self_.kernels_.pixels;
        if (words_of(pixels_, size) * blocks < 2 * threads) size = self_.kernels_.pixels;
        for (int64_t pixel = 0; pixel < pixels_; pixel += size) begin.push_back(pixel);
    } else {
        const int64_t rows = images_.n * height_;
        const int64_t wanted = std::min(words_of(threads, blocks), words_of(pixels_, self_.kernels_.pixels));
        const int64_t most_rows = std::max<int64_t>(1, kSweep / width_);  // of a run
        const int64_t bands = std::max(words_of(rows, most_rows), std::min(rows, wanted));
        const int64_t parts = std::max(words_of(width_, kSweep), words_of(wanted, bands));  // of a band of one row
        for (int64_t band = 0; band < bands; ++band) {
            const int64_t first = band * rows / bands, last = (band + 1) * rows / bands;
            for (int64_t part = 0; part < (last - first == 1 ? parts : 1); ++part)
                begin.push_back(first * width_ + part * width_ / parts);
        }
    }
    begin.push_back(pixels_);
    return begin;
}

void ProductFilters::Convolution::run(int threads) const {
    if (transposed()) {
        const int64_t lanes = self_.kernels_.lanes, registers = self_.padded_ / lanes;
        const int64_t parts = std::max(words_of(self_.padded_, kSweep), std::min<int64_t>(threads, registers));
        parallel_for(parts, threads, [&](int64_t first, int64_t last) {
            for (int64_t part = first; part < last; ++part)
                sweep_transposed(part * registers / parts * lanes, (part + 1) * registers / parts * lanes);
        });
        fill(0, pixels_);
        return;
    }
    // All blocks of a run of pixels one after another: they share what is made of its pixels.
    const std::vector<int64_t> begin = runs(threads);
    const bool swept = sweeps();
    const int64_t blocks = self_.blocks_.size();
    parallel_for((begin.size() - 1) * blocks, threads, [&](int64_t first, int64_t last) {
        Run run;
        for (int64_t number = first; number < last; ++number) {
            const int64_t pixel = begin[number / blocks], size = begin[number / blocks + 1] - pixel;
            const Block &block = self_.blocks_[number % blocks];
            if (number == first || number % blocks == 0) {
                limit(pixel, size, run);
                if (!swept) lay(pixel, size, run);
                run.first_word = -1;
            }
            swept ? sweep(block, pixel, size, run) : tile(block, pixel, size, run);
            if (number % blocks == blocks - 1) fill(pixel, size);
        }
    });
}

std::function<void(int)> ProductFilters::convolve(const PackedImages &images, const Window &window,
                                                  const ProductThresholds &thresholds, void *out) const {
    if (images.n == 0 || filters == 0) return [](int) {};
    return [convolution = std::make_shared<Convolution>(*this, images, window, thresholds, out)](int threads) {
        convolution->run(threads);
    };
}

}  // namespace hypersign
