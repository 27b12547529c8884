#include "bind.hpp"
#include "pool/pool.hpp"

namespace hypersign {

void bind_pool(nb::module_ &m) {
    // One plane: binary; two: signs, non-zeros.
    define(m, "max_pool2d", [](Array<const uint64_t, 5> x, Array<uint64_t, 5> y, Array<const uint64_t, 1> flip,
                               Pair size, Pair stride, Pair padding) {
        require_fit(length(x, 0) == length(y, 0) && (length(x, 0) == 1 || length(x, 0) == 2) &&
                    length(x, 1) == length(y, 1) && length(x, 4) == length(y, 4) && length(flip, 0) == length(x, 4));
        for (const auto &[option, least] : {std::pair{size, 1}, std::pair{stride, 1}, std::pair{padding, 0}})
            require(in_range(option.first, least) && in_range(option.second, least), "a window was expected");
        const PoolTask task{length(x, 1),
                            length(x, 2),
                            length(x, 3),
                            length(x, 4),
                            length(y, 2),
                            length(y, 3),
                            {size.first, size.second},
                            {stride.first, stride.second},
                            {padding.first, padding.second},
                            flip.data()};
        return Call{[task, x, y, flip](int) {
            if (x.shape(0) == 1)
                max_pool_binary(task, x.data(), y.data());
            else
                max_pool_ternary(task, x.data(), x.data() + x.size() / 2, y.data(), y.data() + y.size() / 2);
        }};
    });
}

}  // namespace hypersign
