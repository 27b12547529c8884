#include <algorithm>

#include "bind.hpp"
#include "levels/levels.hpp"
#include "parallel.hpp"

namespace hypersign {
namespace {

using Rows = Array<const uint8_t, 2>;
using Allowed = std::optional<Array<const bool, 1>>;

LevelTask task(const Array<const int8_t, 2> &queries, const Rows &rows, int kind, int64_t factors,
               const Allowed &allowed, int threads) {
    require(kind >= 0 && kind <= static_cast<int>(LevelKind::six), "a kind of levels was expected");
    const auto levels = static_cast<LevelKind>(kind);
    const int64_t count = length(queries, 1);
    require(count >= 1 && count <= kMostLevels, "fewer levels were expected");
    // Keys hold 32 bits of index.
    require_fit(length(rows, 1) >= level_width(levels, count) + 4 * factors &&
                length(rows, 0) < (int64_t{1} << 32) - 1 && (!allowed || length(*allowed, 0) == length(rows, 0)));
    return {levels,         count,           queries.data(), length(queries, 0),
            rows.data(),    length(rows, 0), length(rows, 1),
            allowed ? reinterpret_cast<const uint8_t *>(allowed->data()) : nullptr, checked_threads(threads)};
}

template <class T, class Kernel>
void bind_encode(nb::module_ &m, const char *name, Kernel LevelKernels::*kernel) {
    define(m, name,
           [kernel](Array<const T, 2> rows, Array<const int8_t, 1> levels, Array<const double, 2> factors,
                    Array<uint8_t, 2> indices, int threads) {
               const int64_t n = length(rows, 0), count = length(rows, 1), number = length(levels, 0);
               require(number == 2 || number == 3 || number == 4 || number == 8 || number == 16 || number == 64,
                       "another number of levels was expected");
               require(count >= 1 && count <= kMostLevels, "fewer levels were expected");
               require_fit(length(indices, 0) == n && length(indices, 1) == count && length(factors, 1) == number - 1);
               const LevelEncoding encoding{count, levels.data(), number, factors.data(), length(factors, 0)};
               const T *from = rows.data();
               uint8_t *to = indices.data();
               threads = checked_threads(threads);
               GilReleased released;
               parallel_for(n, threads, [&](int64_t first, int64_t last) {
                   std::vector<int16_t> x(static_cast<size_t>(count));
                   (current_kernels().levels->*kernel)(encoding, from + first * count, last - first, x.data(),
                                                       to + first * count);
               });
           });
}

}  // namespace

void bind_levels(nb::module_ &m) {
    bind_encode<float>(m, "level_encode_float32", &LevelKernels::encode32);
    bind_encode<double>(m, "level_encode_float64", &LevelKernels::encode64);
    define(m, "level_dots",
           [](Array<const int8_t, 2> queries, Rows rows, int kind, Array<int32_t, 2> dots, int threads) {
               const LevelTask all = task(queries, rows, kind, 0, {}, threads);
               require_fit(length(dots, 0) == all.query_count && length(dots, 1) == all.row_count);
               GilReleased released;
               level_dots(all, dots.data());
           });
    define(m, "level_topk",
           [](Array<const int8_t, 2> queries, Array<const float, 1> steps, Rows rows, int kind, Allowed allowed,
              bool exact, Array<float, 2> scores, Array<int64_t, 2> indices, int threads) {
               LevelTask search = task(queries, rows, kind, 2, allowed, threads);
               search.exact = exact;
               const int64_t k = length(scores, 1), n = search.row_count;
               const int64_t most =
                   search.allowed == nullptr ? n : n - std::count(search.allowed, search.allowed + n, 0);
               require_fit(length(steps, 0) == search.query_count && length(scores, 0) == search.query_count &&
                           length(indices, 0) == search.query_count && length(indices, 1) == k && k <= most);
               GilReleased released;
               level_nearest(search, steps.data(), k, scores.data(), indices.data());
           });
}

}  // namespace hypersign
