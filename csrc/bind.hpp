// What the bindings share. They check everything that the kernels rely on, and raise ValueError or TypeError: no
// argument from Python may read or write outside an array. hypersign.bits checks first, with messages for users.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <utility>

#include "call.hpp"

namespace nb = nanobind;

extern "C" void hypersign_restore_thread(PyThreadState *state);

namespace hypersign {

template <class T, int dimensions>
using Array = nb::ndarray<T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
template <class... T>
using AnyArray = nb::ndarray<T..., nb::c_contig, nb::device::cpu>;  // of any number of dimensions
using Pair = std::pair<int64_t, int64_t>;

constexpr int64_t kMaxOption = int64_t{1} << 30;  // of sizes, strides and the like: products of two do not overflow

inline void require(bool fits, const char *expected) {
    if (!fits) throw nb::value_error(expected);
}
inline void require_fit(bool fits) { require(fits, "arrays that fit each other were expected"); }

template <class A>
int64_t length(const A &array, size_t axis) {
    return static_cast<int64_t>(array.shape(axis));
}

// Other Python threads run while this exists. Use it in place of nb::gil_scoped_release, which aborts the process where
// Python ends a daemon thread that comes back from a kernel (restore_thread.c).
class GilReleased {
   public:
    GilReleased() : state_(PyEval_SaveThread()) {}
    ~GilReleased() { hypersign_restore_thread(state_); }
    GilReleased(const GilReleased &) = delete;
    GilReleased &operator=(const GilReleased &) = delete;

   private:
    PyThreadState *state_;
};

// Threads to use: at least 1, at most 1024.
inline int checked_threads(int threads) {
    require(threads >= 1, "threads must be at least 1");
    return std::min(threads, 1024);
}

inline bool in_range(int64_t value, int64_t least) { return value >= least && value <= kMaxOption; }

// Whether a window may slide over images of such a size, and makes `out` of them; along both axes.
inline bool window_fits(Pair image, Pair window, Pair stride, Pair padding, Pair dilation, Pair out) {
    const auto fits = [](int64_t image, int64_t window, int64_t stride, int64_t padding, int64_t dilation,
                         int64_t out) {
        if (!in_range(image, 1) || !in_range(window, 1) || !in_range(stride, 1) || !in_range(padding, 0) ||
            !in_range(dilation, 1))
            return false;
        const int64_t space = image + 2 * padding - dilation * (window - 1) - 1;
        return space >= 0 && out == space / stride + 1;
    };
    return fits(image.first, window.first, stride.first, padding.first, dilation.first, out.first) &&
           fits(image.second, window.second, stride.second, padding.second, dilation.second, out.second);
}

// Arrays are taken as they are: a converted copy would hide a wrong type, and what is written to it would be lost.
template <class T>
struct Argument {
    static constexpr bool is_array = false, is_optional = false;
};
template <class... T>
struct Argument<nb::ndarray<T...>> {
    static constexpr bool is_array = true, is_optional = false;
    static void check(const nb::ndarray<T...> &array) {
        const auto address = reinterpret_cast<uintptr_t>(array.data());
        require(array.size() == 0 || address % static_cast<size_t>(array.itemsize()) == 0,
                "an array whose numbers are aligned in memory was expected");
    }
};
template <class T>
struct Argument<std::optional<T>> {
    static constexpr bool is_array = Argument<T>::is_array, is_optional = true;
    static void check(const std::optional<T> &array) {
        if (array) Argument<T>::check(*array);
    }
};

template <class T>
auto annotation() {
    if constexpr (Argument<T>::is_optional)
        return nb::arg().noconvert().none();
    else if constexpr (Argument<T>::is_array)
        return nb::arg().noconvert();
    else
        return nb::arg();
}

template <class T>
void check_argument(const T &value) {
    if constexpr (Argument<T>::is_array) Argument<T>::check(value);
}

// Defines a function of a module.
template <class F, class R, class... A>
void define_as(nb::module_ &m, const char *name, F f, R (F::*)(A...) const) {
    m.def(
        name,
        [f](A... arguments) -> R {
            (check_argument(arguments), ...);
            return f(arguments...);
        },
        annotation<A>()...);
}
template <class F>
void define(nb::module_ &m, const char *name, F f) {
    define_as(m, name, f, &F::operator());
}

// Defines a method, whose first argument is the object; `extra` as in nanobind.
template <class F, class R, class Self, class... A, class C, class... Extra>
void define_method_as(C &type, const char *name, F f, R (F::*)(Self, A...) const, const Extra &...extra) {
    type.def(
        name,
        [f](Self self, A... arguments) -> R {
            (check_argument(arguments), ...);
            return f(self, arguments...);
        },
        annotation<A>()..., extra...);
}
template <class F, class C, class... Extra>
void define_method(C &type, const char *name, F f, const Extra &...extra) {
    define_method_as(type, name, f, &F::operator(), extra...);
}

}  // namespace hypersign
