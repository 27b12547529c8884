// The kernel in the vector types of GCC and Clang: Floats and Ints fill a register. `Local` must be local to the file
// that includes this, so that its code is never shared with that of another instruction set.
#pragma once
#include <algorithm>
#include <cstring>

#include "moments/moments.hpp"

namespace hypersign {

template <class Local, class Floats, class Ints>
struct Moments {
    static constexpr int kLanes = sizeof(Floats) / sizeof(float), kVectors = kMomentsUnit / kLanes;

    // By reference: no vector is handed from function to function, whose conventions differ with the options.
    static inline double sum(const Floats &v) {
        double total = 0;
        for (int lane = 0; lane < kLanes; ++lane) total += v[lane];
        return total;
    }

    static void sums(const MomentsTask &task) {
        constexpr int64_t kPiece = 1024;  // float32 sums are short, so that they are exact to 1e-6
        const float *x = task.x;
        double *unit = task.absolute;
        for (int64_t row = 0; row < task.rows; ++row) {
            double square = 0;
            for (int64_t start = 0; start < task.d; start += kPiece) {
                const int64_t stop = std::min(start + kPiece, task.d);
                Floats first = {}, second = {}, third = {}, size_third = {}, fourth = {};
                Ints zeros = {};
                for (int64_t i = start; i < stop; i += kMomentsUnit, x += kMomentsUnit) {
                    Floats in_unit = {};
                    for (int k = 0; k < kVectors; ++k) {
                        Floats value;
                        std::memcpy(&value, x + k * kLanes, sizeof value);
                        const Floats size = (Floats)((Ints)value & 0x7fffffff), power = value * value;
                        in_unit += size;
                        first += value;
                        second += power;
                        third += value * power;
                        size_third += size * power;
                        fourth += power * power;
                        zeros -= value == 0.0f;
                    }
                    *unit++ = sum(in_unit);
                }
                square += sum(second);
                const Floats *parts[4] = {&first, &third, &size_third, &fourth};
                for (int k = 0; k < 4; ++k) task.totals[k] += sum(*parts[k]);
                for (int lane = 0; lane < kLanes; ++lane) *task.zeros += zeros[lane];
            }
            task.square[row] = square;
        }
    }
};

}  // namespace hypersign
