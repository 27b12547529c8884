// 32 bytes a register; 8 of the 16 hold numbers, the others signs and what is being shuffled.
#include "hadamard/vectors.hpp"

namespace hypersign {
const HadamardKernels hadamard_avx2 = VectorKernels<32, 8>::all;
}
