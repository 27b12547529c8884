#include "instruction_sets.hpp"

#include <atomic>
#include <cstdint>
#include <stdexcept>

#if defined(HYPERSIGN_X86_64)
#include <cpuid.h>
#elif defined(HYPERSIGN_ARM64) && defined(__linux__)
#include <sys/auxv.h>
#endif
#ifndef HYPERSIGN_ANY_PROCESSOR
#define HYPERSIGN_ANY_PROCESSOR false  // true: assume every feature, for tests under an emulator
#endif

namespace hypersign {
namespace {

#if defined(HYPERSIGN_X86_64)
// The features that this processor has and the system saves registers for, by the names of the compiler's options. The
// compiler's own __builtin_cpu_supports is not used, because with some runtime libraries it answers no to everything.
struct Processor {
    bool popcnt = HYPERSIGN_ANY_PROCESSOR, fma = popcnt, avx2 = popcnt, bmi2 = popcnt, avx512f = popcnt,
         avx512dq = popcnt, avx512bw = popcnt, avx512vl = popcnt, avx512vnni = popcnt, avx512bitalg = popcnt,
         avx512vpopcntdq = popcnt, avx512vbmi = popcnt;

    Processor() {
        unsigned a, b, c, d;
        if (popcnt || !__get_cpuid(1, &a, &b, &c, &d)) return;
        const auto bit = [](unsigned word, int i) { return ((word >> i) & 1) != 0; };
        uint32_t saved = 0, high = 0;  // the registers that the system saves
        if (bit(c, 27)) __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
        const bool ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6;
        popcnt = bit(c, 23);
        fma = ymm && bit(c, 12);
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        bmi2 = bit(b, 8);
        avx2 = ymm && bit(b, 5);
        avx512f = zmm && bit(b, 16);
        avx512dq = zmm && bit(b, 17);
        avx512bw = zmm && bit(b, 30);
        avx512vl = zmm && bit(b, 31);
        avx512vbmi = zmm && bit(c, 1);
        avx512vnni = zmm && bit(c, 11);
        avx512bitalg = zmm && bit(c, 12);
        avx512vpopcntdq = zmm && bit(c, 14);
    }
};
#elif defined(HYPERSIGN_ARM64)
struct Processor {
#if defined(__linux__)
    bool dotprod = HYPERSIGN_ANY_PROCESSOR || (getauxval(AT_HWCAP) >> 20 & 1) != 0;  // HWCAP_ASIMDDP
#elif defined(__APPLE__)
    bool dotprod = true;
#else
    bool dotprod = HYPERSIGN_ANY_PROCESSOR;
#endif
};
#else
struct Processor {};
#endif

std::vector<InstructionSet> find_instruction_sets() {
    std::vector<InstructionSet> found;
    bool has = true;
    [[maybe_unused]] const Processor processor;
    Kernels kernels{};  // each set replaces some of them
#define NEEDS(feature) &&processor.feature
#define COMPILE(option)
#define KERNELS(set, operation) kernels.operation = &operation##_##set;
#define INSTRUCTION_SET(name, architecture, needs, own_kernels) \
    HYPERSIGN_ON_##architecture(has = has needs; if (has) { own_kernels found.push_back({#name, kernels}); })
#include "instruction_sets.def"
    return found;
}

std::atomic<const InstructionSet *> chosen{&instruction_sets().back()};

}  // namespace

const std::vector<InstructionSet> &instruction_sets() {
    // Never destroyed: a daemon thread may be inside a kernel when the process ends.
    static const auto *sets = new std::vector<InstructionSet>(find_instruction_sets());
    return *sets;
}

const InstructionSet &instruction_set() { return *chosen.load(std::memory_order_relaxed); }

void use_instruction_set(const std::string &name) {
    for (const InstructionSet &set : instruction_sets())
        if (name == set.name) {
            chosen = &set;
            return;
        }
    throw std::invalid_argument("no such instruction set: " + name);
}

}  // namespace hypersign
