#include "pack/pack.hpp"

namespace hypersign {
namespace {

struct Compare {
    bool nan = false;

    template <class T, class Limit>
    uint64_t below(const T *x, const Limit *limit, int64_t count) {
        uint64_t word = 0;
        bool ordered = true;
        for (int64_t i = 0; i < count; ++i) {
            word |= static_cast<uint64_t>(x[i] < limit[i]) << i;
            ordered &= x[i] == x[i];
        }
        nan |= !ordered;
        return word;
    }
};

template <class T, class Limit>
constexpr Pack<T, Limit> kernel = pack_rows<Compare, T, Limit>;

}  // namespace

const PackKernels pack_portable{kernel<float, float>, kernel<double, double>, kernel<int8_t, int16_t>,
                                kernel<uint8_t, int16_t>, kernel<int32_t, int64_t>};

}  // namespace hypersign
