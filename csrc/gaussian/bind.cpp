#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <vector>

#include "gaussian/gaussian.hpp"
#include "integers.hpp"
#include "parallel.hpp"

namespace nb = nanobind;

namespace hypersign {
namespace {

constexpr int64_t kRows = 64;  // in a thread's share: the two rows before the first are drawn once more

template <typename Work>
void share_rows(int64_t rows, int threads, Work work) {
    parallel_for(ceil_div(rows, kRows), threads, [&](int64_t first, int64_t last) {
        work(first * kRows, std::min(last * kRows, rows));
    });
}

}  // namespace

void bind_gaussian(nb::module_ &m) {
    using Row = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
    using Matrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
    using Sums = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

    m.def("gaussian_rows", [](Matrix x, uint64_t key, uint64_t first, int threads) {
        const int64_t rows = x.shape(0), d = x.shape(1), width = round_up(d, kGaussianStep);
        float *to = x.data();
        const GaussianTask task{key,     first,   d,       nullptr, nullptr, 0,
                                nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
        const auto kernel = current_kernels().gaussian->row;
        nb::gil_scoped_release release;
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

    // sums: (4, rows): |x| or, with products, nothing; x^2; products with the row before and with that before it.
    // above: (2 rows, thresholds): the sums over what exceeds them for every row, then the numbers of those. scale: (d),
    // or empty.
    m.def("gaussian_sums", [](Sums sums, Sums above, Row scale, Row thresholds, int64_t d, uint64_t key, uint64_t first,
                              bool products, int threads) {
        const int64_t rows = sums.shape(1), counts = thresholds.shape(0), width = round_up(d, kGaussianStep);
        if (sums.shape(0) != 4 || (scale.shape(0) && int64_t(scale.shape(0)) != d) ||
            int64_t(above.shape(0)) != 2 * rows || int64_t(above.shape(1)) != counts)
            throw nb::value_error("arrays that do not fit each other");
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
        nb::gil_scoped_release release;
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
