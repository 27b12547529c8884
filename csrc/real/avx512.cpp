// Eight pixels by two registers of filters: sixteen sums hide the latency of a multiply-add twice over.
#include "real/vectors.hpp"

namespace hypersign {
namespace {

struct Local;
typedef double Vector __attribute__((vector_size(64)));

}  // namespace

const RealKernels real_avx512{real_tile<Local, Vector, 8>};

}  // namespace hypersign
