#include <algorithm>
#include <memory>
#include <vector>

#include "integers.hpp"
#include "parallel.hpp"
#include "real/real.hpp"

namespace hypersign {

// Scales and shifts of several pixels, so that the loop over them is a long one where channels are few.
template <typename T>
std::function<void(int)> real_affine(const T *x, int64_t size, const float *scale, const float *shift,
                                     int64_t channels, float *y) {
    struct Rows {
        std::vector<float> scale, shift;
    };
    const int64_t pixels = std::max<int64_t>(1, 256 / channels), length = pixels * channels;
    auto rows = std::make_shared<Rows>();
    for (int64_t i = 0; i < pixels; ++i) {
        rows->scale.insert(rows->scale.end(), scale, scale + channels);
        rows->shift.insert(rows->shift.end(), shift, shift + channels);
    }
    return [=](int threads) {
        parallel_for(ceil_div(size, length), threads, [&](int64_t first, int64_t last) {
            for (int64_t row = first; row < last; ++row) {
                const int64_t from = row * length, count = std::min(length, size - from);
                const float *s = rows->scale.data(), *b = rows->shift.data();
                for (int64_t i = 0; i < count; ++i) y[from + i] = static_cast<float>(x[from + i]) * s[i] + b[i];
            }
        });
    };
}

template std::function<void(int)> real_affine(const int32_t *, int64_t, const float *, const float *, int64_t, float *);
template std::function<void(int)> real_affine(const float *, int64_t, const float *, const float *, int64_t, float *);

}  // namespace hypersign
