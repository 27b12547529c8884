// 16 bytes a register: what every machine of these architectures has.
#include "moments/vectors.hpp"

namespace hypersign {
namespace {

struct Local;
typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));

}  // namespace

const MomentsKernels moments_portable{Moments<Local, Floats, Ints>::sums};

}  // namespace hypersign
