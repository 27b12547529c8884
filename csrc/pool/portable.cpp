#include <algorithm>

#include "pool/pool.hpp"

namespace hypersign {
namespace {

// Calls output(offset of the result) and then input(offset) for each pixel of its window that lies in the image.
template <class Output, class Input, class Epilogue>
void windows(const PoolTask &task, const Output &output, const Input &input, const Epilogue &epilogue) {
    for (int64_t image = 0, y = 0; image < task.images; ++image)
        for (int64_t row = 0; row < task.out_height; ++row) {
            const int64_t top = row * task.stride[0] - task.padding[0];
            const int64_t bottom = std::min(top + task.size[0], task.height);
            for (int64_t column = 0; column < task.out_width; ++column, y += task.words) {
                const int64_t left = column * task.stride[1] - task.padding[1];
                const int64_t right = std::min(left + task.size[1], task.width);
                output(y);
                for (int64_t i = std::max<int64_t>(top, 0); i < bottom; ++i)
                    for (int64_t j = std::max<int64_t>(left, 0); j < right; ++j)
                        input(y, ((image * task.height + i) * task.width + j) * task.words);
                epilogue(y);
            }
        }
}

}  // namespace

void max_pool_binary(const PoolTask &task, const uint64_t *x, uint64_t *y) {
    const int64_t words = task.words;
    windows(
        task, [&](int64_t to) { std::fill_n(y + to, words, ~uint64_t{0}); },
        [&](int64_t to, int64_t from) {
            for (int64_t word = 0; word < words; ++word) y[to + word] &= x[from + word];
        },
        [&](int64_t to) {
            for (int64_t word = 0; word < words; ++word) y[to + word] ^= task.flip[word];
        });
}

void max_pool_ternary(const PoolTask &task, const uint64_t *sign, const uint64_t *nonzero, uint64_t *y_sign,
                      uint64_t *y_nonzero) {
    const int64_t words = task.words;
    windows(
        task,
        [&](int64_t to) {
            std::fill_n(y_sign + to, words, ~uint64_t{0});
            std::fill_n(y_nonzero + to, words, uint64_t{0});
        },
        [&](int64_t to, int64_t from) {
            for (int64_t word = 0; word < words; ++word) {
                y_sign[to + word] &= sign[from + word];                              // all are -1
                y_nonzero[to + word] |= nonzero[from + word] & ~sign[from + word];  // any is +1
            }
        },
        [&](int64_t to) {
            for (int64_t word = 0; word < words; ++word) {
                y_nonzero[to + word] |= y_sign[to + word];
                y_sign[to + word] ^= task.flip[word] & y_nonzero[to + word];
            }
        });
}

}  // namespace hypersign
