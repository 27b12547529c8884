#include <algorithm>
#include <vector>

#include "bind.hpp"
#include "gaussian/gaussian.hpp"
#include "integers.hpp"
#include "parallel.hpp"

namespace hypersign {
namespace {

constexpr int64_t kRows = 64;  // of a thread's share; the two rows before the first are drawn once more

template <typename Work>
void share_rows(int64_t rows, int threads, Work work) {
    parallel_for(ceil_div(rows, kRows), threads, [&](int64_t first, int64_t last) {
        work(first * kRows, std::min(last * kRows, rows));
    });
}

}  // namespace

void bind_gaussian(nb::module_ &m) {
    using Row = Array<const float, 1>;
    using Sums = Array<double, 2>;

    define(m, "gaussian_rows", [](Array<float, 2> x, uint64_t key, uint64_t first, int threads) {
        const int64_t rows = length(x, 0), d = length(x, 1), width = round_up(d, kGaussianStep);
        threads = checked_threads(threads);
        float *to = x.data();
        const GaussianTask task{key,     first,   d,       nullptr, nullptr, 0,
                                nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
        const auto kernel = current_kernels().gaussian->row;
        GilReleased released;
        share_rows(rows, threads, [&](int64_t start, int64_t stop) {
            std::vector<float> row(width);
            for (int64_t i = start; i < stop; ++i) {
                if (width == d) {
                    kernel(task, first + i, to + i * d, width);
                } else {
                    kernel(task, first + i, row.data(), width);
                    std::copy_n(row.data(), d, to + i * d);
                }
            }
        });
    });

    // sums: (4, rows): |x|, or nothing with products; x^2; products with the row before, and with the one before
    // that. above: (2 rows, thresholds): for every row the sums over what exceeds them, then how many do. scale: (d),
    // or empty.
    define(m, "gaussian_sums", [](Sums sums, Sums above, Row scale, Row thresholds, int64_t d, uint64_t key,
                                  uint64_t first, bool products, int threads) {
        require(d >= 1 && d <= kMaxOption, "at least one component was expected");
        threads = checked_threads(threads);
        const int64_t rows = length(sums, 1), counts = length(thresholds, 0), width = round_up(d, kGaussianStep);
        require_fit(length(sums, 0) == 4 && (length(scale, 0) == 0 || length(scale, 0) == d) &&
                    length(above, 0) == 2 * rows && length(above, 1) == counts);
        std::vector<float> factors(scale.shape(0) ? width : 0);
        std::copy_n(scale.data(), scale.shape(0), factors.data());
        const GaussianTask task{key,
                                first,
                                d,
                                factors.empty() ? nullptr : factors.data(),
                                thresholds.data(),
                                counts,
                                sums.data(),
                                sums.data() + rows,
                                products ? sums.data() + 2 * rows : nullptr,
                                products ? sums.data() + 3 * rows : nullptr,
                                above.data(),
                                above.data() + rows * counts};
        const GaussianKernels &kernels = *current_kernels().gaussian;
        GilReleased released;
        share_rows(rows, threads, [&](int64_t start, int64_t stop) {
            std::vector<float> x(width), last(width);
            if (products) {
                kernels.row(task, first + start - 2, x.data(), width);
                kernels.row(task, first + start - 1, last.data(), width);
            }
            for (int64_t i = start; i < stop; ++i) {
                kernels.sums(task, i, x.data(), last.data(), width);
                x.swap(last);
            }
        });
    });
}

}  // namespace hypersign
