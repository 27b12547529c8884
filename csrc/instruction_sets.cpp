#include "instruction_sets.hpp"

#include <atomic>
#include <stdexcept>

namespace hypersign {
namespace {

std::vector<InstructionSet> find_instruction_sets() {
    std::vector<InstructionSet> found;
    bool has = true;
    Kernels kernels{};  // each set replaces some of them
#define NEEDS(feature) &&__builtin_cpu_supports(#feature)
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
