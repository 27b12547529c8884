// 64 bytes a register; 16 of the 32 hold numbers, the others signs and what is being shuffled.
#include "hadamard/vectors.hpp"

namespace hypersign {
const HadamardKernels hadamard_avx512 = VectorKernels<64, 16>::all;
}
