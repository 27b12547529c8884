// Compares the kernels of each instruction set with the portable ones on random tasks, without Python, so that it
// runs under an emulator. Prints what differs, and exits with 1 if anything does.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "elementwise/elementwise.hpp"
#include "gradient/gradient.hpp"
#include "hadamard/hadamard.hpp"
#include "hamming/hamming.hpp"
#include "image/image.hpp"
#include "integers.hpp"
#include "levels/levels.hpp"
#include "levels/pruning.hpp"
#include "pack/pack.hpp"
#include "training/training.hpp"
#include "product/filters.hpp"
#include "product8/product8.hpp"
#include "real/real.hpp"

using namespace hypersign;

namespace {

std::mt19937_64 generator(1);
int failures = 0;

int64_t up_to(int64_t n) { return static_cast<int64_t>(generator() % static_cast<uint64_t>(n + 1)); }

template <class T>
std::vector<T> random_values(int64_t count, int64_t min, int64_t max) {
    std::vector<T> values(static_cast<size_t>(count));
    for (T &value : values) value = static_cast<T>(min + up_to(max - min));
    return values;
}

void expect(bool equal, const char *what) {
    if (equal) return;
    std::printf("%s differs\n", what);
    ++failures;
}

template <class T, class Limit>
void pack(Pack<T, Limit> kernel, Pack<T, Limit> truth, int64_t min, const char *what) {
    const int64_t rows = up_to(3), n = up_to(200), words = ceil_div(n, 64);
    const auto x = random_values<T>(rows * n, min, 3);
    const auto low = random_values<Limit>(n, -2, 2), high = random_values<Limit>(n, -2, 2);
    const auto flip = random_values<uint64_t>(words, 0, 1 << 20);
    std::vector<uint64_t> sign[2], nonzero[2];
    bool nan[2];
    for (int ternary = 0; ternary < 2; ++ternary) {
        for (int i = 0; i < 2; ++i) {
            sign[i].assign(static_cast<size_t>(rows * words), 0);
            nonzero[i] = sign[i];
            nan[i] = (i ? kernel : truth)(x.data(), low.data(), ternary ? high.data() : nullptr, flip.data(),
                                          sign[i].data(), ternary ? nonzero[i].data() : nullptr, rows, n);
        }
        expect(sign[0] == sign[1] && nonzero[0] == nonzero[1] && nan[0] == nan[1], what);
    }
}

template <class T>
void nan(Pack<T, T> kernel, const char *what) {
    for (const int64_t n : {1, 64, 100})
        for (int64_t position = 0; position < n; ++position) {
            std::vector<T> x(static_cast<size_t>(n)), limit(x);
            std::vector<uint64_t> flip(2), sign(2);
            x[static_cast<size_t>(position)] = std::numeric_limits<T>::quiet_NaN();
            expect(kernel(x.data(), limit.data(), nullptr, flip.data(), sign.data(), nullptr, 1, n), what);
        }
}

void hamming(const HammingKernels &kernels, const HammingKernels &truth) {
    const int64_t count = up_to(150), words = up_to(70);
    auto codes = random_values<uint64_t>(count * words, 0, INT64_MAX - 1);
    const auto query = random_values<uint64_t>(words, 0, INT64_MAX - 1);
    if (up_to(3) == 0)
        for (int64_t i = 0; i < count * words; ++i) codes[static_cast<size_t>(i)] = ~query[static_cast<size_t>(i % words)];
    const auto limit = static_cast<int32_t>(up_to(2) ? words * 32 : INT32_MAX);
    std::vector<uint32_t> positions[2];
    std::vector<int32_t> distances[2];
    for (int i = 0; i < 2; ++i) {
        const HammingKernels &used = i ? kernels : truth;
        const size_t space = static_cast<size_t>(round_up(count, 128));
        std::vector<uint64_t> block(2 * space * static_cast<size_t>(words));
        positions[i].resize(space);
        distances[i].resize(space);
        used.layout(codes.data(), count, words, block.data());
        const int64_t found = used.nearer(block.data(), count, query.data(), words, limit, positions[i].data(),
                                          distances[i].data());
        positions[i].resize(static_cast<size_t>(found));
        distances[i].resize(static_cast<size_t>(found));
    }
    expect(positions[0] == positions[1] && distances[0] == distances[1], "hamming");
}

void image(const ImageKernels &kernels, const ImageKernels &truth) {
    const int64_t pixels = up_to(9), fours = 1 + up_to(20), filters = 1 + up_to(140);
    const int64_t blocks = ceil_div(filters, kImageLanes), words = ceil_div(filters, 64);
    const auto patches = random_values<uint8_t>(pixels * fours * kImageTaps, 0, 255);
    const int64_t largest = 1 + up_to(63);
    const auto weights = random_values<int8_t>(blocks * fours * kImageLanes * kImageTaps, -largest, largest);
    const auto starts = random_values<int32_t>(blocks * kImageLanes, -9000, 9000);
    const auto low = random_values<int32_t>(blocks * kImageLanes, -50000, 0);
    const auto high = random_values<int32_t>(blocks * kImageLanes, 0, 50000);
    const auto flip = random_values<uint64_t>(words, 0, INT64_MAX - 1);
    const std::vector<const int32_t *> start(static_cast<size_t>(pixels), starts.data());
    for (int kind = 0; kind < 3; ++kind) {  // sums, binary, ternary
        std::vector<int32_t> sums[2];
        std::vector<uint64_t> sign[2], nonzero[2];
        for (int i = 0; i < 2; ++i) {
            sums[i].resize(static_cast<size_t>(pixels * filters));
            sign[i].resize(static_cast<size_t>(pixels * words));
            nonzero[i] = sign[i];
            ImageRow row{patches.data(), pixels, fours, weights.data(), largest, start.data(), filters, nullptr,
                         low.data(), nullptr, flip.data(), sign[i].data(), nullptr};
            if (kind == 0) row.sums = sums[i].data();
            if (kind == 2) row.high = high.data(), row.nonzero = nonzero[i].data();
            (i ? kernels : truth).row(row);
            // Flips of filters that are none may show; callers set none.
            if (filters % 64 != 0)
                for (int64_t p = 0; p < pixels; ++p)
                    sign[i][static_cast<size_t>((p + 1) * words - 1)] &= ~uint64_t{0} >> (64 - filters % 64);
        }
        expect(sums[0] == sums[1] && sign[0] == sign[1] && nonzero[0] == nonzero[1], "image");
    }
}

void real(const RealKernels &kernels, const RealKernels &truth) {
    const int64_t pixels = up_to(20), depth = up_to(70), pitch = depth + up_to(3), count = 1 + up_to(15);
    const int64_t rows = up_to(3), row_pitch = pitch + up_to(20);
    std::normal_distribution<float> normal;
    const auto numbers = [&](int64_t n) {
        std::vector<double> values(static_cast<size_t>(n));
        for (double &value : values) value = normal(generator);
        return values;
    };
    const auto patches = numbers(pixels * pitch + rows * row_pitch), weights = numbers(rows * depth * kRealLanes);
    const auto bias = numbers(kRealLanes);
    std::vector<float> y[2];
    for (int i = 0; i < 2; ++i) {
        y[i].resize(static_cast<size_t>(pixels * count));
        (i ? kernels : truth)
            .tile({patches.data(), pixels, rows, depth, pitch, row_pitch, weights.data(), bias.data(), y[i].data(), count,
                   count});
    }
    expect(y[0] == y[1], "real");
}

void elementwise(const ElementwiseKernels &kernels, const ElementwiseKernels &truth) {
    const int64_t pixels = up_to(20), channels = up_to(2) ? 1 + up_to(80) : 16 * (1 + up_to(9));
    const int64_t n = pixels * channels, words = ceil_div(channels, 64);
    std::normal_distribution<float> normal;
    const auto numbers = [&](int64_t count) {
        std::vector<float> values(static_cast<size_t>(count));
        for (float &value : values) value = normal(generator);
        return values;
    };
    const auto x = numbers(n), other = numbers(n), scale = numbers(channels), shift = numbers(channels);
    const auto low = numbers(round_up(channels, 16)), high = numbers(round_up(channels, 16));
    const auto whole = random_values<int32_t>(n, -999, 999), byte = random_values<int32_t>(n, 0, 255);
    const std::vector<uint8_t> pixel(byte.begin(), byte.end());
    const std::vector<uint64_t> flip(static_cast<size_t>(words), channels % 64 ? (uint64_t{1} << channels % 64) - 1 : 0);
    std::vector<float> y[2];
    std::vector<uint64_t> bits[2];
    for (int i = 0; i < 2; ++i) {
        const ElementwiseKernels &each = i ? kernels : truth;
        y[i].resize(static_cast<size_t>(10 * n + 1));
        float *to = y[i].data();
        each.affine_float32(x.data(), scale.data(), shift.data(), channels, to, n);
        each.affine_int32(whole.data(), scale.data(), shift.data(), channels, to + n, n);
        each.affine_uint8(pixel.data(), scale.data(), shift.data(), channels, to + 2 * n, n);
        each.add(x.data(), other.data(), to + 3 * n, n);
        each.clip(x.data(), -0.5F, 1, to + 4 * n, n);
        each.outer(other.data(), scale.data(), channels, to + 5 * n, pixels);
        const float *rows[] = {x.data(), other.data(), x.data()};
        each.mean(rows, 3, 7, to + 6 * n, n);
        each.max(rows, 3, to + 7 * n, n);
        each.affine_add_float32(x.data(), scale.data(), shift.data(), channels, other.data(), to + 8 * n, n);
        each.affine_add_int32(whole.data(), scale.data(), shift.data(), channels, other.data(), to + 9 * n, n);
        bits[i].resize(static_cast<size_t>(3 * pixels * words));
        uint64_t *sign = bits[i].data();
        to[10 * n] = each.levels(x.data(), low.data(), nullptr, flip.data(), sign, nullptr, pixels, channels);
        sign += pixels * words;
        each.levels(x.data(), low.data(), high.data(), flip.data(), sign, sign + pixels * words, pixels, channels);
    }
    if (kernels.residual && channels % 16 == 0) {
        const bool rprelu = up_to(1), packs = up_to(1);
        std::vector<float> t(static_cast<size_t>(n)), right(t), sum[2]{t, t};
        std::vector<uint64_t> sign[2]{std::vector<uint64_t>(static_cast<size_t>(pixels * words)), {}};
        sign[1] = sign[0];
        const auto affine = [&](float *x) { truth.affine_float32(x, low.data(), high.data(), channels, x, n); };
        truth.affine_add_int32(whole.data(), scale.data(), shift.data(), channels, other.data(), sum[0].data(), n);
        if (rprelu) {
            constexpr float kInfinity = std::numeric_limits<float>::infinity();
            truth.affine_float32(sum[0].data(), shift.data(), scale.data(), channels, t.data(), n);
            truth.clip(t.data(), 0, kInfinity, right.data(), n);
            truth.clip(t.data(), -kInfinity, 0, t.data(), n);
            affine(right.data());
            truth.affine_add_float32(t.data(), scale.data(), low.data(), channels, right.data(), sum[0].data(), n);
        }
        if (packs) truth.levels(sum[0].data(), low.data(), nullptr, flip.data(), sign[0].data(), nullptr, pixels, channels);
        ResidualTask task{whole.data(), channels, scale.data(), shift.data(), other.data(), {}, packs ? low.data() : nullptr,
                          flip.data(), sum[1].data(), sign[1].data(), pixels, channels};
        const float *rows[] = {shift.data(), scale.data(), low.data(), high.data(), scale.data(), low.data()};
        if (rprelu) std::copy_n(rows, 6, task.rprelu);
        kernels.residual(task);
        expect(sum[0] == sum[1] && sign[0] == sign[1], "residual");
    }
    expect(y[0] == y[1] && bits[0] == bits[1], "elementwise");
}

void product(const ProductKernels &kernels, const ProductKernels &truth) {
    const int64_t groups = up_to(2) ? 1 : 1 + up_to(40), depth = 1 + up_to(groups > 1 ? 40 : 200);
    const int64_t filters = groups * (1 + up_to(groups > 1 ? 5 : up_to(3) ? 150 : 600)), rows = 1 + up_to(2), columns = 1 + up_to(2);
    Window window{{1 + up_to(2), 1 + up_to(2)}, {up_to(2), up_to(2)}, {1 + up_to(1), 1 + up_to(1)}, 0};
    window.pad_value = static_cast<int>(up_to(1));
    const int64_t height = (rows - 1) * window.dilation[0] + 1 + up_to(5);
    const int64_t width = (columns - 1) * window.dilation[1] + 1 + up_to(9), n = up_to(3);
    const bool ternary_x = up_to(1), ternary_w = up_to(1);
    const auto levels = [](int64_t count, int64_t size, bool ternary) {  // bits past `size` are 0
        auto words = random_values<uint64_t>((ternary ? 2 : 1) * count * ceil_div(size, 64), 0, INT64_MAX - 1);
        const auto row = static_cast<size_t>(ceil_div(size, 64));
        if (size % 64)
            for (size_t i = row - 1; i < words.size(); i += row) words[i] &= ~uint64_t{0} >> (64 - size % 64);
        return words;
    };
    const auto x = levels(n * height * width, groups * depth, ternary_x);
    const auto w = levels(filters, rows * columns * depth, ternary_w);
    const auto low = random_values<int32_t>(filters, -20, 0), high = random_values<int32_t>(filters, 0, 20);
    const std::unique_ptr<bool[]> flip(new bool[static_cast<size_t>(filters)]);
    for (int64_t f = 0; f < filters; ++f) flip[static_cast<size_t>(f)] = up_to(1);
    const int64_t pixels = n * window.size(0, height, rows) * window.size(1, width, columns);
    for (int kind = 0; kind < 3; ++kind) {  // sums, binary, ternary
        std::vector<int32_t> out[2];
        for (int i = 0; i < 2; ++i) {
            const ProductFilters packed(i ? kernels : truth, w.data(), filters, rows, columns, depth, groups, ternary_w);
            out[i].resize(static_cast<size_t>(pixels * (kind ? 4 * ceil_div(filters, 64) : filters)));
            packed.convolve({x.data(), n, height, width, ternary_x}, window,
                            {kind ? low.data() : nullptr, kind == 2 ? high.data() : nullptr, flip.get()},
                            out[i].data())(1);
        }
        expect(out[0] == out[1], "product");
    }
}

void product8(const Product8Kernels &kernels, const Product8Kernels &truth) {
    const bool ternary = up_to(1);
    const int64_t rows = up_to(up_to(3) ? 30 : 100), filters = up_to(up_to(3) ? 150 : 400), depth = 1 + up_to(up_to(3) ? 200 : 2000);
    const int64_t group = up_to(1) ? depth : 1 + up_to(depth - 1), groups = ceil_div(depth, group);
    const int64_t words = filters * ceil_div(depth, 64);
    const auto w = random_values<uint64_t>(2 * words, 0, INT64_MAX - 1);
    const auto x = random_values<int8_t>(rows * depth, -128, 127);
    const auto scale = random_values<float>(filters * groups, -9, 9), x_scale = random_values<float>(rows, 0, 9);
    std::vector<int32_t> sums[2];
    std::vector<float> scaled[2];
    for (int i = 0; i < 2; ++i) {
        sums[i].resize(static_cast<size_t>(rows * filters));
        scaled[i].resize(static_cast<size_t>(rows * filters));
        const Product8Filters packed(i ? kernels : truth, w.data(), filters, depth, ternary, scale.data(), group);
        packed.multiply(x.data(), rows, sums[i].data(), nullptr, nullptr, 1);
        packed.multiply(x.data(), rows, nullptr, scaled[i].data(), x_scale.data(), 1);
    }
    expect(sums[0] == sums[1] && scaled[0] == scaled[1], "product8");
}

void gradient(const char *set) {
    GradientShape s{1 + up_to(2), 1 + up_to(9), 1 + up_to(9), 1 + up_to(80), 0, 0, up_to(90), {1 + up_to(2), 1 + up_to(2)},
                    {1 + up_to(1), 1 + up_to(1)}, {2, 2}, {1, 1}, 1 + up_to(1)};
    s.rows = (s.height + 2 * s.padding[0] - s.kernel[0]) / s.stride[0] + 1;
    s.columns = (s.width + 2 * s.padding[1] - s.kernel[1]) / s.stride[1] + 1;
    const int64_t d = s.kernel[0] * s.kernel[1] * s.channels, pixels = s.rows * s.columns;
    const int64_t inputs = s.images * s.height * s.width, image_words = ceil_div(s.channels, 64);
    auto g = random_values<float>(s.images * pixels * s.filters, -50, 50);
    for (float &each : g) each *= 0.37f;
    const auto w = random_values<uint64_t>(s.planes * s.filters * ceil_div(d, 64), 0, INT64_MAX - 1);
    const auto x = random_values<uint64_t>(s.planes * inputs * image_words, 0, INT64_MAX - 1);
    const bool clipped = up_to(1);
    std::vector<int8_t> q[2][2];
    std::vector<float> scales[2][2], out[2][2];
    for (int i = 0; i < 2; ++i) {
        use_instruction_set(i ? set : "portable");
        for (auto &each : q[i]) each.resize(g.size());
        scales[i][0].resize(static_cast<size_t>(s.images));
        scales[i][1].resize(static_cast<size_t>(s.filters));
        round_gradients(g.data(), s.images, pixels, s.filters, 5, q[i][0].data(), scales[i][0].data(), q[i][1].data(),
                        scales[i][1].data(), 1);
        out[i][0].resize(static_cast<size_t>(inputs * s.channels));
        out[i][1].resize(static_cast<size_t>(s.filters * d));
        input_gradient(s, q[0][0].data(), scales[0][0].data(), w.data(), clipped ? x.data() : nullptr,
                       out[i][0].data(), 1);
        weight_gradient(s, q[0][1].data(), scales[0][1].data(), x.data(), up_to(0), clipped ? w.data() : nullptr,
                        out[i][1].data(), 1);
    }
    for (int kind = 0; kind < 2; ++kind)
        expect(q[0][kind] == q[1][kind] && scales[0][kind] == scales[1][kind] && out[0][kind] == out[1][kind], "gradient");
}

void training(const TrainingKernels &kernels, const TrainingKernels &truth) {
    const int64_t rows = 1 + up_to(20), channels = up_to(1) ? 16 * (1 + up_to(4)) : 1 + up_to(70), n = rows * channels;
    const auto x = random_values<float>(n, -9, 9), g = random_values<float>(n, -9, 9);
    const auto place = random_values<uint8_t>(channels, 0, 3);
    const auto integers = random_values<int32_t>(n, -99, 99);
    const bool stream = channels % 16 == 0;
    const float *pixels[] = {x.data(), g.data(), x.data() + n - channels};
    struct alignas(64) Line {
        float of[16];
    };
    std::vector<float> found[2];
    std::vector<uint64_t> bits[2];
    std::vector<uint8_t> places[2];
    for (int i = 0; i < 2; ++i) {
        const TrainingKernels &each = i ? kernels : truth;
        std::vector<float> s(static_cast<size_t>(5 * channels));
        float *mean = s.data();
        each.moments(x.data(), rows, channels, mean, mean + channels, mean + 2 * channels);
        each.sums(g.data(), x.data(), rows, channels, mean, mean + 3 * channels, mean + 4 * channels);
        std::vector<Line> lines(static_cast<size_t>(ceil_div(n, 16)));
        const auto keep = [&](int64_t count) { found[i].insert(found[i].end(), lines[0].of, lines[0].of + count); };
        each.normalize(x.data(), rows, channels, mean, mean + channels, mean + 2 * channels, stream, lines[0].of);
        keep(n);
        each.gradient(g.data(), x.data(), rows, channels, mean, mean + channels, mean + 3 * channels,
                      mean + 4 * channels, stream, lines[0].of);
        keep(n);
        const Slopes slopes{rows, channels, x.data(), mean, mean + channels, mean + 3 * channels, mean + 4 * channels};
        each.slopes(slopes, x.data(), rows, stream, lines[0].of);
        keep(n);
        std::vector<float> sums(static_cast<size_t>(4 * channels));
        each.slopes_gradient(slopes, g.data(), x.data(), rows, stream, lines[0].of, sums.data());
        keep(n);
        found[i].insert(found[i].end(), sums.begin(), sums.end());
        each.unpool(g.data(), place.data(), 2, channels, stream, lines[0].of);
        keep(channels);
        places[i].resize(static_cast<size_t>(2 * channels));
        each.unpool_bytes(reinterpret_cast<const int8_t *>(place.data()), place.data(), 3, channels,
                          reinterpret_cast<int8_t *>(places[i].data()) + channels);
        each.pool(pixels, 3, channels, lines[0].of, places[i].data());
        keep(channels);
        found[i].insert(found[i].end(), s.begin(), s.end());
        bits[i].resize(static_cast<size_t>(2 * ceil_div(n, 64)));
        each.pack(x.data(), n, 3, bits[i].data(), bits[i].data() + ceil_div(n, 64));
        each.to_floats(integers.data(), n, stream, lines[0].of);
        keep(n);
        auto w = x, m = g;
        std::vector<float> v(x.size(), 0.5f);
        const float square = each.adam({5, 0.1f, 0.9f, 0.2f, 0.8f, 0.3f, 0.7f, 1.5f, 0.01f, 4}, g.data(), n, w.data(),
                                       m.data(), v.data());
        found[i].insert(found[i].end(), {square, each.squares(x.data(), n)});
        for (const auto *numbers : {&w, &m, &v}) found[i].insert(found[i].end(), numbers->begin(), numbers->end());
    }
    expect(found[0] == found[1] && bits[0] == bits[1] && places[0] == places[1], "training");
}

void levels(const char *set) {
    const auto kind = static_cast<LevelKind>(up_to(5));
    const int64_t queries = up_to(30), rows = up_to(300), count = 1 + up_to(up_to(3) ? 100 : 1000);
    const int64_t bytes = level_width(kind, count) + 8 + up_to(3), k = up_to(rows);
    const auto x = random_values<int8_t>(queries * count, -127, 127);
    auto packed = random_values<uint8_t>(rows * bytes, 0, 255);
    for (int64_t i = 0; i < rows; ++i) {
        const float factors[2] = {static_cast<float>(up_to(9)) - 4, static_cast<float>(up_to(9))};
        std::memcpy(&packed[static_cast<size_t>((i + 1) * bytes - (bytes - level_width(kind, count)))], factors, 8);
    }
    const auto steps = random_values<float>(queries, 0, 3);
    std::vector<int32_t> dots[2];
    std::vector<float> scores[2];
    std::vector<int64_t> indices[2];
    for (int i = 0; i < 2; ++i) {
        use_instruction_set(i ? set : "portable");
        dots[i].resize(static_cast<size_t>(queries * rows));
        scores[i].resize(static_cast<size_t>(queries * k));
        indices[i].resize(scores[i].size());
        const LevelTask task{kind, count, x.data(), queries, packed.data(), rows, bytes, nullptr, 1};
        level_dots(task, dots[i].data());
        level_nearest(task, steps.data(), k, scores[i].data(), indices[i].data());
    }
    expect(dots[0] == dots[1] && scores[0] == scores[1] && indices[0] == indices[1], "levels");
}

// The signs of rows, their sums and what they demand, beside plain loops.
void pruning_rows(const PruningKernels &kernels) {
    const int64_t groups = 4 * (1 + up_to(2)), steps = 1 + up_to(9), lookups = (steps + 2) / 3 * 2, rows = 16 * groups;
    const auto block = random_values<uint8_t>(rows * steps * 4, 1, 255);
    auto used = random_values<uint8_t>(steps * 4, 0, 1);
    for (uint8_t &each : used) each = each ? 255 : 0;
    std::vector<uint8_t> indices(static_cast<size_t>(rows * lookups)), expected(indices.size());
    std::vector<int32_t> sums[4];
    for (auto &each : sums) each.assign(static_cast<size_t>(rows), 0);
    const LevelTile tile{block.data(), groups, steps, 128, nullptr, nullptr, 0, nullptr};
    kernels.signs(tile, used.data(), lookups, indices.data(), sums[0].data(), sums[1].data());
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t j = 0; j < 4 * steps; ++j) {
            const int level = block[static_cast<size_t>(((row / 16 * steps + j / 4) * 16 + row % 16) * 4 + j % 4)] - 128;
            const auto at = static_cast<size_t>((row / 64 * lookups + j / 6) * 64 + row % 64);
            expected[at] = static_cast<uint8_t>(expected[at] | (level > 0) << j % 6);
            sums[2][static_cast<size_t>(row)] += used[static_cast<size_t>(j)] ? std::abs(level) : 0;
            sums[3][static_cast<size_t>(row)] += used[static_cast<size_t>(j)] ? level * level : 0;
        }
    expect(indices == expected && sums[0] == sums[2] && sums[1] == sums[3], "signs");

    std::vector<float> a, b, product(static_cast<size_t>(rows)), offset(product.size());
    for (int64_t i = 0; i < rows; ++i) {
        a.push_back(up_to(9) ? -static_cast<float>(1 + up_to(99)) : static_cast<float>(up_to(1)));
        b.push_back(up_to(9) ? static_cast<float>(up_to(99)) : std::numeric_limits<float>::quiet_NaN());
    }
    std::vector<uint64_t> always(static_cast<size_t>(rows / 64));
    std::vector<int16_t> products(product.size()), offsets(product.size());
    float largest[2];
    kernels.weigh({rows, 0.5F, sums[0].data(), sums[1].data(), a.data(), b.data(), product.data(), offset.data(),
                   always.data(), products.data(), offsets.data(), largest});
    for (int64_t i = 0; i < rows; ++i) {
        const auto at = static_cast<size_t>(i);
        const float weight = 0.5F * static_cast<float>(sums[0][at]) / static_cast<float>(sums[1][at]);
        const float p = weight / -a[at], o = p * b[at];
        const bool fits = a[at] < 0 && p <= kPruningMost && std::fabs(o) <= kPruningMost;
        const auto to = static_cast<size_t>(i / 64 * 64 + pruning_place(i % 64));
        const auto near = [](int16_t found, float x, float most) {
            return std::fabs(found - (most > 0 ? x / most * 32767 : 0)) <= 1;
        };
        expect((always[at / 64] >> at % 64 & 1) == !fits && product[at] == (fits ? p : 0) && offset[at] == (fits ? o : 0) &&
                   near(products[to], product[at], largest[0]) && near(offsets[to], offset[at], largest[1]),
               "demands");
    }
}

// The costs of queries and which rows get whole products, beside plain loops.
void pruning(const PruningKernels &kernels) {
    const int64_t groups = 1 + up_to(6), lookups = up_to(9) ? 1 + up_to(20) : 60 + up_to(80), count = 64 * groups - up_to(63);
    const int64_t pitch = 32 * (1 + up_to(4));
    const int bits = 1 << up_to(2), digits = 8 / bits, base = 1 << bits;
    const auto signs = random_values<int8_t>(kPruningQueries * lookups * 6, -127, 127);
    const float scale = static_cast<float>(up_to(100)) / 1000;
    std::vector<uint8_t> costs(static_cast<size_t>(kPruningQueries * lookups * 64));
    kernels.costs(signs.data(), kPruningQueries * lookups, scale, costs.data());
    for (int64_t i = 0; i < kPruningQueries * lookups * 64; ++i) {
        int64_t sixteenths = 8;
        for (int64_t j = 0; j < 6; ++j) {
            const int number = signs[static_cast<size_t>(i / 64 * 6 + j)];
            if ((i >> j & 1) != (number > 0) && number != 0)
                sixteenths += std::lrint(std::min(8160.0F, static_cast<float>(std::abs(number)) * (16 * scale)));
        }
        expect(costs[static_cast<size_t>(i)] == std::min<int64_t>(sixteenths / 16, 255), "costs");
    }

    const auto indices = random_values<uint8_t>(groups * lookups * 64, 0, 63);
    const auto products = random_values<int16_t>(groups * 64, 0, 32767), offsets = random_values<int16_t>(groups * 64, -32767, 32767);
    auto always = random_values<uint64_t>(groups, 0, 1 << 10);
    const auto rows = random_values<uint8_t>(groups * 64 * pitch, 0, 255);
    uint8_t table[16];
    for (int i = 0; i < 16; ++i) table[i] = static_cast<uint8_t>(bits == 4 ? up_to(255) : 2 * i);
    const auto numbers = random_values<int8_t>(kPruningQueries * digits * pitch, -127, 127);
    std::vector<uint8_t> held(static_cast<size_t>(groups * 64 * kPruningQueries));
    std::vector<uint32_t> passed(static_cast<size_t>((groups * 64 + 80) * kPruningQueries)), positions(passed.size());
    std::vector<float> a, b, scores(passed.size());
    for (int64_t i = 0; i < groups * 64; ++i) {
        a.push_back(-static_cast<float>(1 + up_to(3)));
        b.push_back(static_cast<float>(up_to(5)));
    }
    LevelPruning pruning{groups, lookups, indices.data(), products.data(), offsets.data(), always.data(), {}, {}, {}, {},
                     rows.data(), pitch, bits, table, base - 1, {}, {}, held.data(), passed.data()};
    float steps[kPruningQueries], limits[kPruningQueries];
    int64_t found[kPruningQueries];
    for (int64_t q = 0; q < kPruningQueries; ++q) {
        pruning.costs[q] = costs.data() + q * lookups * 64;
        pruning.numbers[q] = numbers.data() + q * digits * pitch;
        pruning.sums[q] = static_cast<int32_t>(up_to(1000));
        pruning.constants[q] = static_cast<int16_t>(up_to(400));
        pruning.offset_scales[q] = static_cast<int16_t>(up_to(200));
        pruning.product_scales[q] = static_cast<int16_t>(up_to(400) - 200);
        steps[q] = 1;
        limits[q] = static_cast<float>(up_to(200'000)) - 100'000;
    }
    const int64_t capacity = groups * 64 + 80;
    kernels.prune(pruning, {count, steps, limits, a.data(), b.data(), capacity, positions.data(), scores.data(), found});
    const auto fraction = [](int64_t x, int64_t y) { return (x * y + (1 << 14)) >> 15; };
    for (int64_t q = 0; q < kPruningQueries; ++q) {
        std::vector<uint32_t> expected;
        for (int64_t row = 0; row < count; ++row) {
            int64_t cost = 0, dot = 0;
            for (int64_t i = 0; i < lookups; ++i)
                cost += pruning.costs[q][i * 64 + indices[static_cast<size_t>((row / 64 * lookups + i) * 64 + row % 64)]];
            const auto at = static_cast<size_t>(row / 64 * 64 + pruning_place(row % 64));
            const int64_t most = pruning.constants[q] - fraction(offsets[at], pruning.offset_scales[q]) +
                                 fraction(products[at], pruning.product_scales[q]);
            const bool passes = std::min<int64_t>(cost, 255) <= std::clamp<int64_t>(most, 0, 255);
            if (!passes && !(always[static_cast<size_t>(row / 64)] >> row % 64 & 1)) continue;
            for (int64_t j = 0; j < pitch * digits; ++j)
                dot += table[rows[static_cast<size_t>(row * pitch + j % pitch)] >> j / pitch * bits & (base - 1)] * pruning.numbers[q][j];
            const float score = static_cast<float>(dot - (base - 1) * pruning.sums[q]) * a[static_cast<size_t>(row)] +
                                b[static_cast<size_t>(row)];
            if (score < limits[q]) expected.push_back(static_cast<uint32_t>(row));
        }
        const uint32_t *start = positions.data() + q * capacity;
        expect(std::vector<uint32_t>(start, start + found[q]) == expected, "pruning");
    }
}

void encode(const LevelKernels &kernels, const LevelKernels &truth) {
    constexpr int64_t kNumbers[] = {2, 3, 4, 8, 16, 64};
    const int64_t rows = up_to(3), count = 1 + up_to(700), number = kNumbers[up_to(5)], scales = 1 + up_to(7);
    auto levels = random_values<int8_t>(number, -127, 127);
    std::sort(levels.begin(), levels.end());
    std::vector<double> factors, x;
    for (int64_t i = 0; i < scales * (number - 1); ++i) factors.push_back(static_cast<double>(up_to(4000)) / 1000 - 2);
    for (int64_t i = 0; i < rows * count; ++i) x.push_back(static_cast<double>(up_to(60)) - 30);
    const std::vector<float> x32(x.begin(), x.end());
    const LevelEncoding encoding{count, levels.data(), number, factors.data(), scales};
    std::vector<int16_t> rounded(static_cast<size_t>(count));
    std::vector<uint8_t> found[4];
    for (int i = 0; i < 4; ++i) {
        const LevelKernels &each = i < 2 ? truth : kernels;
        found[i].resize(x.size());
        if (i % 2)
            each.encode32(encoding, x32.data(), rows, rounded.data(), found[i].data());
        else
            each.encode64(encoding, x.data(), rows, rounded.data(), found[i].data());
        expect(found[i] == found[0], "encoding");
    }
}

template <typename T, typename Kernel>
void hadamard(Kernel kernel, Kernel truth, const char *what) {
    const int64_t rows = 3, n = int64_t{1} << up_to(12);
    std::vector<T> x(static_cast<size_t>(rows * n)), y(x.size()), expected(x.size());
    for (T &value : x) value = static_cast<T>(static_cast<int32_t>(generator())) / (std::is_integral_v<T> ? T(1) : T(77));
    kernel(x.data(), y.data(), rows, n);
    truth(x.data(), expected.data(), rows, n);
    kernel(x.data(), x.data(), rows, n);
    expect(y == expected && x == expected, what);
}

}  // namespace

// Compares the named instruction sets, or all.
int main(int count, char **names) {
    for (const InstructionSet &set : instruction_sets()) {
        const auto named = [&](const char *name) { return std::strcmp(name, set.name) == 0; };
        if (count > 1 && std::none_of(names + 1, names + count, named)) continue;
        std::printf("%s\n", set.name);
        const PackKernels &packs = *set.kernels.pack;
        nan(packs.float32, "NaN of float32");
        nan(packs.float64, "NaN of float64");
        for (int round = 0; round < 300; ++round) {
            pack(packs.float32, pack_portable.float32, -3, "pack float32");
            pack(packs.float64, pack_portable.float64, -3, "pack float64");
            pack(packs.int8, pack_portable.int8, -3, "pack int8");
            pack(packs.uint8, pack_portable.uint8, 0, "pack uint8");
            pack(packs.int32, pack_portable.int32, -3, "pack int32");
            hamming(*set.kernels.hamming, hamming_portable);
            image(*set.kernels.image, image_portable);
            real(*set.kernels.real, real_portable);
            elementwise(*set.kernels.elementwise, elementwise_portable);
            product8(*set.kernels.product8, product8_portable);
            training(*set.kernels.training, training_portable);
            if (round < 100) gradient(set.name);
            levels(set.name);
            encode(*set.kernels.levels, levels_portable);
            if (const PruningKernels *kernels = set.kernels.levels->pruning) {
                pruning_rows(*kernels);
                pruning(*kernels);
            }
            const HadamardKernels &transforms = *set.kernels.hadamard;
            const auto scaled = [](auto kernel, auto factor) {
                return [=](auto *x, auto *y, int64_t rows, int64_t n) { kernel(x, y, rows, n, factor); };
            };
            hadamard<float>(scaled(transforms.float32, 0.3F), scaled(hadamard_portable.float32, 0.3F), "hadamard float32");
            hadamard<double>(scaled(transforms.float64, 1.0), scaled(hadamard_portable.float64, 1.0), "hadamard float64");
            hadamard<int32_t>(transforms.int32, hadamard_portable.int32, "hadamard int32");
            hadamard<int16_t>(transforms.int16, hadamard_portable.int16, "hadamard int16");
            if (round < 100) product(*set.kernels.product, product_portable);
        }
    }
    return failures != 0;
}
