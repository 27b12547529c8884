// Several elementwise operations, run on a few pixels at a time: each reads what the one before it left in the first
// cache. Optionally the sums of a product of levels are their input, and never reach memory.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "elementwise/elementwise.hpp"
#include "product/filters.hpp"

namespace hypersign {

class ElementwiseProgram {
   public:
    explicit ElementwiseProgram(int64_t pixels) : pixels(pixels) {}

    // What operations read and write, numbered from 0: rows of `channels` numbers, one per pixel.
    enum class Kind { scratch, float32, int32, uint8, words, product };
    struct Value {
        Kind kind;
        int64_t channels;
        char *data = nullptr;  // of arrays
        int64_t period = 0;    // in pixels, of an array that repeats
        int64_t offset = 0;    // of scratch, in numbers per pixel; of a product, the first filter
        bool ternary = false;  // of words
    };
    int add_value(Value value);

    enum class Operation { affine, affine_add, residual, add, clip, outer, levels };
    struct Instruction {
        Operation operation;
        int to, from, other = -1;
        std::vector<float> p, q;  // parameters per channel: scale and shift, or low and high
        float low = 0, high = 0;
        std::vector<uint64_t> flip;
        bool ternary = false;
        std::vector<Instruction> parts;  // of residual: the operations that it stands for
    };
    void add_instruction(Instruction instruction) { instructions_.push_back(std::move(instruction)); }

    // Makes it ready after the last instruction.
    void finish();

    // Pixels [first, first + count); `sums` are those of the product, (count, filters).
    void run(int64_t first, int64_t count, const int32_t *sums, int64_t filters);
    // All pixels, without a product.
    void run(int threads);
    // Throws std::invalid_argument if levels of a NaN were asked for since the last call.
    void check();

    const int64_t pixels;
    const std::vector<Value> &values() const { return values_; }

   private:
    void join_sums();
    void join_residuals();
    bool reads_later(size_t from, int value) const;
    void run_tile(int64_t first, int64_t count, const int32_t *sums, int64_t filters, float *scratch);
    void run_instruction(const Instruction &instruction, int64_t first, int64_t count, const int32_t *sums,
                         int64_t filters, float *scratch);

    std::vector<Value> values_;
    std::vector<Instruction> instructions_;
    int64_t scratch_ = 0;  // numbers per pixel
    int64_t tile_ = 1;     // pixels at a time
    int64_t repeat_ = 0;   // the common period of arrays that repeat, 0 if there are none
    std::atomic<bool> nan_{false};
};

// Pools of real numbers: the largest of each window, or with `divisors`, (out), its sum divided by the number of its
// place. Padded positions add nothing and never win; every window has a position that is not padded.
struct RealPoolTask {
    const float *x;  // (images, height, width, channels)
    int64_t images, height, width, channels;
    int64_t size[2], out[2], stride[2], padding[2];
    const float *divisors;
    float *y;  // (images, out, channels)
};

std::function<void(int)> real_pool(const RealPoolTask &task);

}  // namespace hypersign
