#include "bind.hpp"
#include "moments/moments.hpp"

namespace hypersign {

void bind_moments(nb::module_ &m) {
    // absolute: (rows, d / 32); square: (rows); totals: (4), added to. Returns the number of zeros.
    define(m, "weight_moments", [](Array<const float, 2> x, Array<double, 2> absolute, Array<double, 1> square,
                                   Array<double, 1> totals) {
        const int64_t rows = length(x, 0), d = length(x, 1);
        require_fit(d % kMomentsUnit == 0 && length(absolute, 0) == rows && length(absolute, 1) == d / kMomentsUnit &&
                    length(square, 0) == rows && length(totals, 0) == 4);
        int64_t zeros = 0;
        const MomentsTask task{x.data(), rows, d, absolute.data(), square.data(), totals.data(), &zeros};
        GilReleased released;
        current_kernels().moments->sums(task);
        return zeros;
    });
}

}  // namespace hypersign
