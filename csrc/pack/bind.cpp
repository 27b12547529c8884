#include "bind.hpp"
#include "integers.hpp"
#include "pack/pack.hpp"

namespace hypersign {
namespace {

// Binary levels if `high` is None, ternary if it is an array. Returns whether x holds a NaN.
template <class T, class Limit>
void bind(nb::module_ &m, const char *name, Pack<T, Limit> PackKernels::*kernel) {
    define(m, name,
           [kernel](Array<const T, 2> x, Array<const Limit, 1> low, std::optional<Array<const Limit, 1>> high,
                    Array<const uint64_t, 1> flip, Array<uint64_t, 3> planes) {
               const int64_t rows = length(x, 0), n = length(x, 1), words = ceil_div(n, 64);
               require_fit(length(low, 0) == n && (!high || length(*high, 0) == n) && length(flip, 0) == words &&
                           length(planes, 0) == (high ? 2 : 1) && length(planes, 1) == rows &&
                           length(planes, 2) == words);
               GilReleased released;
               return (current_kernels().pack->*kernel)(x.data(), low.data(), high ? high->data() : nullptr,
                                                        flip.data(), planes.data(),
                                                        high ? planes.data() + rows * words : nullptr, rows, n);
           });
}

}  // namespace

void bind_pack(nb::module_ &m) {
    bind(m, "pack_float32", &PackKernels::float32);
    bind(m, "pack_float64", &PackKernels::float64);
    bind(m, "pack_int8", &PackKernels::int8);
    bind(m, "pack_uint8", &PackKernels::uint8);
    bind(m, "pack_int32", &PackKernels::int32);
}

}  // namespace hypersign
