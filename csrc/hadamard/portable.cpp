#include "hadamard/butterflies.hpp"
#include "hadamard/hadamard.hpp"

namespace hypersign {
namespace {

template <typename T>
void floating(const T *x, T *y, int64_t rows, int64_t n, T scale) {
    for (int64_t row = 0; row < rows; ++row) butterflies(x + row * n, y + row * n, n, scale);
}

template <typename T>
void integer(const T *x, T *y, int64_t rows, int64_t n) {
    using U = typename Wrapping<T>::type;
    floating(reinterpret_cast<const U *>(x), reinterpret_cast<U *>(y), rows, n, U(1));
}

}  // namespace

const HadamardKernels hadamard_portable{floating<float>, floating<double>, integer<int32_t>, integer<int16_t>};

}  // namespace hypersign
