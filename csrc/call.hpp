// Operations bound to their arrays. Python calls them again and again, or several of them at once.
#pragma once
#include <functional>

namespace hypersign {

// It keeps its arrays and filters alive.
struct Call {
    std::function<void(int threads)> run;
};

}  // namespace hypersign
