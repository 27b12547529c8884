#include <nanobind/stl/string.h>

#include "bind.hpp"
#include "elementwise/program.hpp"
#include "integers.hpp"
#include "parallel.hpp"

namespace hypersign {
namespace {

using Program = ElementwiseProgram;
using Row = Array<const float, 1>;

// A program with the arrays that it reads and writes.
struct BoundProgram {
    std::shared_ptr<Program> program;
    std::vector<nb::object> arrays;
    bool has_product = false;
    int64_t filters = 0;  // that it reads of the product

    Program::Value value(int index, std::initializer_list<Program::Kind> kinds) const {
        require(index >= 0 && index < static_cast<int>(program->values().size()), "a value's number was expected");
        const Program::Value value = program->values()[index];
        require(std::find(kinds.begin(), kinds.end(), value.kind) != kinds.end(), "a value of another kind was expected");
        return value;
    }
    Program::Value real(int index) const { return value(index, {Program::Kind::scratch, Program::Kind::float32}); }
    Program::Value target(int index) const {
        const Program::Value found = real(index);
        require(found.period == 0, "an array to write to was expected");
        return found;
    }
    void add(Program::Instruction instruction) { program->add_instruction(std::move(instruction)); }
};

constexpr int64_t kMaxPixels = int64_t{1} << 32;  // times channels, up to kMaxOption, does not overflow

// An array of rows of numbers, one per pixel; with a period, it repeats after that many pixels.
template <class T>
int add_array(BoundProgram &self, Program::Kind kind, const AnyArray<T> &array, int64_t channels, int64_t period) {
    require_fit(in_range(channels, 1) && in_range(period, 0) &&
                static_cast<int64_t>(array.size()) == (period ? period : self.program->pixels) * channels);
    for (const Program::Value &value : self.program->values()) require_fit(!period || !value.period || value.period == period);
    self.arrays.push_back(nb::cast(array));
    return self.program->add_value({kind, channels, reinterpret_cast<char *>(const_cast<std::remove_const_t<T> *>(array.data())), period});
}

std::vector<float> values_of(const Row &row) { return {row.data(), row.data() + row.size()}; }

Call call(const BoundProgram &self) {
    require(!self.has_product, "a program without a product was expected");
    self.program->finish();
    return Call{[self](int threads) {
        self.program->run(threads);
        self.program->check();
    }};
}

Call call_after(const BoundProgram &self, const ProductFilters &filters, AnyArray<const uint64_t> x, Pair size,
                Pair stride, Pair padding, Pair dilation, int pad_value) {
    require(x.ndim() == 4 || (x.ndim() == 5 && x.shape(0) == 2), "images (n, height, width, words) were expected");
    const bool ternary = x.ndim() == 5;
    const PackedImages images{x.data(), length(x, ternary), length(x, ternary + 1), length(x, ternary + 2), ternary};
    const Window window{
        {stride.first, stride.second}, {padding.first, padding.second}, {dilation.first, dilation.second}, pad_value};
    require(window_fits({images.height, images.width}, {filters.rows, filters.columns}, stride, padding, dilation, size) &&
                (pad_value == 0 || pad_value == 1),
            "a window that slides over the images and fits the output was expected");
    require_fit(length(x, ternary + 3) == ceil_div(filters.channels, 64) && self.filters <= filters.filters &&
                images.n * size.first * size.second == self.program->pixels);
    self.program->finish();
    const auto run = filters.convolve(images, window, [program = self.program.get(), count = filters.filters](
                                                          int64_t first, int64_t pixels, const int32_t *sums) {
        program->run(first, pixels, sums, count);
    });
    return Call{[self, run, x](int threads) {
        run(threads);
        self.program->check();
    }};
}

}  // namespace

void bind_elementwise(nb::module_ &m) {
    using Self = BoundProgram;
    using Kind = Program::Kind;
    using Operation = Program::Operation;
    nb::class_<Self> type(m, "Elementwise");
    define_method(type, "__init__", [](Self *self, int64_t pixels) {
        require(pixels >= 0 && pixels <= kMaxPixels, "pixels from 0 to 2^32 were expected");
        new (self) Self{std::make_shared<Program>(pixels), {}};
    });
    // Values: arrays to read, of several types; arrays to write; scratch; the product's sums from a filter on.
    define_method(type, "array", [](Self &self, AnyArray<const float> x, int64_t channels, int64_t period) {
        return add_array(self, Kind::float32, x, channels, period);
    });
    define_method(type, "array_int32", [](Self &self, AnyArray<const int32_t> x, int64_t channels) {
        return add_array(self, Kind::int32, x, channels, 0);
    });
    define_method(type, "array_uint8", [](Self &self, AnyArray<const uint8_t> x, int64_t channels) {
        return add_array(self, Kind::uint8, x, channels, 0);
    });
    define_method(type, "output", [](Self &self, AnyArray<float> x, int64_t channels) {
        return add_array(self, Kind::float32, x, channels, 0);
    });
    define_method(type, "words", [](Self &self, AnyArray<uint64_t> x, int64_t channels, bool ternary) {
        require_fit(in_range(channels, 1) && static_cast<int64_t>(x.size()) ==
                                                 (ternary ? 2 : 1) * self.program->pixels * ceil_div(channels, 64));
        self.arrays.push_back(nb::cast(x));
        Program::Value value{Kind::words, channels, reinterpret_cast<char *>(x.data())};
        value.ternary = ternary;
        return self.program->add_value(value);
    });
    define_method(type, "scratch", [](Self &self, int64_t channels) {
        require_fit(in_range(channels, 1));
        return self.program->add_value({Kind::scratch, channels});
    });
    define_method(type, "product", [](Self &self, int64_t first, int64_t channels) {
        require_fit(in_range(first, 0) && in_range(channels, 1));
        self.has_product = true;
        self.filters = std::max(self.filters, first + channels);
        Program::Value value{Kind::product, channels};
        value.offset = first;
        return self.program->add_value(value);
    });
    // Operations.
    define_method(type, "affine", [](Self &self, int to, int from, Row scale, Row shift) {
        const int64_t channels = self.target(to).channels;
        const auto x = self.value(from, {Kind::scratch, Kind::float32, Kind::int32, Kind::uint8, Kind::product});
        require_fit(x.channels == channels && length(scale, 0) == channels && length(shift, 0) == channels);
        self.add({Operation::affine, to, from, -1, values_of(scale), values_of(shift)});
    });
    define_method(type, "add", [](Self &self, int to, int from, int other) {
        const int64_t channels = self.target(to).channels;
        require_fit(self.real(from).channels == channels && self.real(other).channels == channels);
        self.add({Operation::add, to, from, other, {}, {}});
    });
    define_method(type, "clip", [](Self &self, int to, int from, float low, float high) {
        require_fit(self.real(from).channels == self.target(to).channels);
        self.add({Operation::clip, to, from, -1, {}, {}, low, high});
    });
    define_method(type, "outer", [](Self &self, int to, int from, Row scale) {
        require_fit(self.real(from).channels == 1 && length(scale, 0) == self.target(to).channels &&
                    (to != from || self.target(to).channels == 1));
        self.add({Operation::outer, to, from, -1, values_of(scale), {}});
    });
    define_method(type, "levels", [](Self &self, int to, int from, Row low, std::optional<Row> high,
                                     Array<const uint64_t, 1> flip) {
        const auto words = self.value(to, {Kind::words});
        const int64_t channels = words.channels;
        require_fit(self.real(from).channels == channels && length(low, 0) == channels &&
                    (!high || length(*high, 0) == channels) && length(flip, 0) == ceil_div(channels, 64) &&
                    words.ternary == high.has_value());
        Program::Instruction instruction{Operation::levels, to, from, -1, values_of(low), {}};
        if (high) instruction.q = values_of(*high);
        instruction.flip.assign(flip.data(), flip.data() + flip.size());
        instruction.ternary = high.has_value();
        self.add(std::move(instruction));
    });
    define_method(type, "call", [](Self &self) { return call(self); });
    define_method(
        type, "call_after",
        [](Self &self, const ProductFilters &filters, AnyArray<const uint64_t> x, Pair size, Pair stride, Pair padding,
           Pair dilation, int pad_value) {
            return call_after(self, filters, x, size, stride, padding, dilation, pad_value);
        },
        nb::keep_alive<0, 2>());
    define(m, "real_pool",
           [](Array<const float, 4> x, Array<float, 4> y, Pair size, Pair stride, Pair padding,
              std::optional<Array<const float, 2>> divisors) {
               const RealPoolTask task{x.data(), length(x, 0), length(x, 1), length(x, 2), length(x, 3),
                                       {size.first, size.second}, {length(y, 1), length(y, 2)},
                                       {stride.first, stride.second}, {padding.first, padding.second},
                                       divisors ? divisors->data() : nullptr, y.data()};
               require_fit(length(y, 0) == task.images && length(y, 3) == task.channels &&
                           (!divisors || (length(*divisors, 0) == task.out[0] && length(*divisors, 1) == task.out[1])));
               const int64_t image[2] = {task.height, task.width};
               for (int axis = 0; axis < 2; ++axis)
                   require(in_range(task.size[axis], 1) && in_range(task.stride[axis], 1) &&
                               in_range(task.padding[axis], 0) && task.padding[axis] < task.size[axis] &&
                               (task.out[axis] == 0 ||
                                (task.out[axis] - 1) * task.stride[axis] - task.padding[axis] < image[axis]),
                           "windows that each meet the image were expected");
               return Call{[run = real_pool(task), x, y, divisors](int threads) { run(threads); }};
           });
}

}  // namespace hypersign
