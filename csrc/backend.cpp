#include "backend.hpp"

#include <atomic>
#include <stdexcept>

namespace hypersign {
namespace {

bool has(Backend backend) {
    switch (backend) {
    case Backend::portable:
        return true;
#if defined(HYPERSIGN_X86)
    case Backend::avx2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("fma") &&
               __builtin_cpu_supports("bmi2");
    case Backend::avx512:
        return has(Backend::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512bitalg") &&
               __builtin_cpu_supports("avx512vnni");
#elif defined(HYPERSIGN_NEON)
    case Backend::neon:
        return true;  // part of every 64-bit ARM
#endif
    default:
        return false;
    }
}

std::atomic<Backend> chosen{available_backends().back()};

}  // namespace

std::vector<Backend> available_backends() {
    std::vector<Backend> found;
    for (Backend backend : {Backend::portable, Backend::neon, Backend::avx2, Backend::avx512})
        if (has(backend)) found.push_back(backend);
    return found;
}

Backend backend() { return chosen.load(std::memory_order_relaxed); }

const char *name(Backend backend) {
    switch (backend) {
    case Backend::avx2:
        return "avx2";
    case Backend::avx512:
        return "avx512";
    case Backend::neon:
        return "neon";
    default:
        return "portable";
    }
}

void use_backend(const std::string &wanted) {
    for (Backend backend : available_backends())
        if (wanted == name(backend)) {
            chosen = backend;
            return;
        }
    throw std::invalid_argument("no such backend: " + wanted);
}

}  // namespace hypersign
