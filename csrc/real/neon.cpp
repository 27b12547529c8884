// Two pixels by eight registers of filters.
#include "real/vectors.hpp"

namespace hypersign {
namespace {

struct Local;
typedef double Vector __attribute__((vector_size(16)));

}  // namespace

const RealKernels real_neon{real_tile<Local, Vector, 2>};

}  // namespace hypersign
