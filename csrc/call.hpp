// Operations bound to their arrays, which Python calls again and again, or several of them at once.
#pragma once
#include <nanobind/nanobind.h>

#include <functional>

namespace hypersign {

// What it captures stays alive with it: arrays, and the objects that hold filters.
struct Call {
    std::function<void(int threads)> run;
};

}  // namespace hypersign
