#include "moments/vectors.hpp"

namespace hypersign {
namespace {

struct Local;
typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));

}  // namespace

const MomentsKernels moments_avx2{Moments<Local, Floats, Ints>::sums};

}  // namespace hypersign
