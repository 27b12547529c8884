// Packs filters: merges groups, divides filters into blocks, and lets the kernels order the weights of each block.
#include "product/filters.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "integers.hpp"
#include "product/bits.hpp"

namespace hypersign {

// Groups of channels are merged until their channels fill whole words and their filters whole registers; filters then
// become ternary: 0 at the channels of other groups. So the kernels know nothing of groups, and a depthwise
// convolution is a product of 32 channels with 32 filters.
ProductFilters::ProductFilters(const ProductKernels &kernels, const uint64_t *words, int64_t filters, int64_t rows,
                               int64_t columns, int64_t depth, int64_t groups, bool given_ternary)
    : kernels(kernels), filters(filters), rows(rows), columns(columns), channels(depth * groups) {
    const int64_t lanes = kernels.lanes, per_group = filters / groups, taps = rows * columns;
    const int64_t words_merged = 32 / std::gcd<int64_t>(32, depth), lanes_merged = lanes / std::gcd(lanes, per_group);
    const int64_t merged = std::min(groups, std::lcm(words_merged, lanes_merged));
    ternary = given_ternary || merged > 1;
    padded = round_up(filters, lanes);

    // Rows of filters with each tap in whole words.
    const int64_t tap_words = ceil_div(merged * depth, 32), row_words = taps * tap_words;
    const int64_t given_words = ceil_div(taps * depth, 64);
    std::vector<uint32_t> sign(padded * row_words), nonzero(ternary ? padded * row_words : 0);
    const bool whole = !ternary && depth % 64 == 0;  // then taps are whole words in the given rows too
    for (int64_t f = 0; f < filters && whole; ++f)
        std::memcpy(&sign[f * row_words], words + f * given_words, static_cast<size_t>(given_words) * sizeof *words);
    for (int64_t f = 0; f < filters && !whole; ++f)
        for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t word = f * row_words + tap * tap_words, at = f / per_group % merged * depth;
            copy_bits(words + f * given_words, tap * depth, depth, &sign[word], at);
            if (given_ternary)
                copy_bits(words + (filters + f) * given_words, tap * depth, depth, &nonzero[word], at);
            else if (ternary)
                set_bits(&nonzero[word], at, depth);
        }
    if (given_ternary)  // a sign where the level is zero would count
        for (size_t i = 0; i < sign.size(); ++i) sign[i] &= nonzero[i];

    nonzeros.assign(padded, 0);
    tap_sums.assign((rows + 1) * (columns + 1) * padded, 0);
    const int64_t left = padded, above = (columns + 1) * padded;
    for (int64_t f = 0; f < filters; ++f)
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) {
                const int64_t word = f * row_words + (i * columns + j) * tap_words;
                const int32_t n = ternary ? count_bits(&nonzero[word], tap_words) : static_cast<int32_t>(depth);
                nonzeros[f] += n;
                int32_t *sum = &tap_sums[((i + 1) * (columns + 1) + j + 1) * padded + f];
                sum[0] = sum[-left] + sum[-above] - sum[-left - above] + n - 2 * count_bits(&sign[word], tap_words);
            }
    divide_into_blocks(groups, merged, depth, row_words);
    pack_blocks(sign, nonzero, row_words, tap_words);
}

// Within a merged group: blocks of as many registers as the kernels take, then powers of two for the rest.
void ProductFilters::divide_into_blocks(int64_t groups, int64_t merged, int64_t depth, int64_t row_words) {
    const int64_t lanes = kernels.lanes, per_group = filters / groups, planes = ternary ? 2 : 1;
    for (int64_t group = 0; group < ceil_div(groups, merged); ++group) {
        const int64_t members = std::min(merged, groups - group * merged);
        const int64_t last = group * merged * per_group + members * per_group;
        for (int64_t f = group * merged * per_group; f < last;) {
            int64_t registers = ternary ? kernels.max_ternary_registers : kernels.max_binary_registers;
            while (registers > ceil_div(last - f, lanes)) registers /= 2;
            blocks.push_back({static_cast<size_t>(f * row_words * planes), f, group * merged * depth / 32,
                              ceil_div(members * depth, 32), members * depth,
                              static_cast<int>(std::min(registers * lanes, last - f)), static_cast<int>(registers)});
            f += registers * lanes;
        }
    }
}

void ProductFilters::pack_blocks(const std::vector<uint32_t> &sign, const std::vector<uint32_t> &nonzero,
                                 int64_t row_words, int64_t tap_words) {
    const int64_t taps = rows * columns;
    const int planes = ternary ? 2 : 1;
    weights = aligned_words(padded * row_words * planes);
    for (const FilterBlock &block : blocks) {
        const int count = block.registers * kernels.lanes;
        // The last group may have fewer words per tap than a row has space for.
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
        kernels.pack_weights(pointers[0].data(), ternary ? pointers[1].data() : nullptr, width, count,
                             weights.get() + block.start);
    }
}

}  // namespace hypersign
