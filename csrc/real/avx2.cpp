// Three pixels by four registers of filters: twelve sums leave four registers for weights and a number.
#include "real/vectors.hpp"

namespace hypersign {
namespace {

struct Local;
typedef double Vector __attribute__((vector_size(32)));

}  // namespace

const RealKernels real_avx2{real_tile<Local, Vector, 3>};

}  // namespace hypersign
