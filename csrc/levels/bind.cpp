#include <algorithm>

#include "bind.hpp"
#include "levels/levels.hpp"

namespace hypersign {
namespace {

using Rows = Array<const uint8_t, 2>;
using Allowed = std::optional<Array<const bool, 1>>;

LevelTask task(const Array<const int8_t, 2> &queries, const Rows &rows, int kind, int64_t factors,
               const Allowed &allowed, int threads) {
    require(kind >= 0 && kind <= static_cast<int>(LevelKind::four), "a kind of levels was expected");
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

}  // namespace

void bind_levels(nb::module_ &m) {
    define(m, "level_dots",
           [](Array<const int8_t, 2> queries, Rows rows, int kind, Array<int32_t, 2> dots, int threads) {
               const LevelTask all = task(queries, rows, kind, 0, {}, threads);
               require_fit(length(dots, 0) == all.query_count && length(dots, 1) == all.row_count);
               GilReleased released;
               level_dots(all, dots.data());
           });
    define(m, "level_topk",
           [](Array<const int8_t, 2> queries, Array<const float, 1> steps, Rows rows, int kind, Allowed allowed,
              Array<float, 2> scores, Array<int64_t, 2> indices, int threads) {
               const LevelTask search = task(queries, rows, kind, 2, allowed, threads);
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
