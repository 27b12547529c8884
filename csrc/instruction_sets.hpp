// Which kernels run. instruction_sets.def lists the instruction sets; the fastest that the processor has is chosen
// when the module is loaded, and use_instruction_set changes the choice.
#pragma once
#include <string>
#include <type_traits>
#include <vector>

namespace hypersign {

struct PackKernels;
struct ProductKernels;
struct Product8Kernels;
struct ImageKernels;
struct RealKernels;
struct ElementwiseKernels;
struct HadamardKernels;
struct HammingKernels;
struct GaussianKernels;
struct MomentsKernels;
struct GradientKernels;
struct LevelKernels;
struct TrainingKernels;

// The kernels of an instruction set, one member per operation.
struct Kernels {
    const PackKernels *pack;
    const ProductKernels *product;
    const Product8Kernels *product8;
    const ImageKernels *image;
    const RealKernels *real;
    const ElementwiseKernels *elementwise;
    const HadamardKernels *hadamard;
    const HammingKernels *hamming;
    const GaussianKernels *gaussian;
    const MomentsKernels *moments;
    const GradientKernels *gradient;
    const LevelKernels *levels;
    const TrainingKernels *training;
};

struct InstructionSet {
    const char *name;
    Kernels kernels;
};

// The instruction sets of this build that the processor has, slowest first; the first is "portable".
const std::vector<InstructionSet> &instruction_sets();

// The instruction set in use.
const InstructionSet &instruction_set();
inline const Kernels &current_kernels() { return instruction_set().kernels; }

// Throws std::invalid_argument if the processor does not have the set.
void use_instruction_set(const std::string &name);

// HYPERSIGN_ON_<architecture>(...) is its arguments where the build is for that architecture, and nothing elsewhere.
#define HYPERSIGN_ON_ANY(...) __VA_ARGS__
#if defined(HYPERSIGN_X86_64)
#define HYPERSIGN_ON_X86_64(...) __VA_ARGS__
#else
#define HYPERSIGN_ON_X86_64(...)
#endif
#if defined(HYPERSIGN_ARM64)
#define HYPERSIGN_ON_ARM64(...) __VA_ARGS__
#else
#define HYPERSIGN_ON_ARM64(...)
#endif

// Declares pack_portable, pack_avx2 and so on.
#define NEEDS(feature)
#define COMPILE(option)
#define KERNELS(set, operation) extern std::remove_pointer_t<decltype(Kernels::operation)> operation##_##set;
#define INSTRUCTION_SET(name, architecture, needs, own_kernels) HYPERSIGN_ON_##architecture(own_kernels)
#include "instruction_sets.def"

}  // namespace hypersign
