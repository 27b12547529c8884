#include <vector>

#include "bind.hpp"
#include "hamming/hamming.hpp"

namespace hypersign {
namespace {

using Codes = Array<const uint64_t, 2>;

using Allowed = std::optional<Array<const bool, 1>>;

HammingTask task(const Codes &queries, const Codes &codes, const Allowed &allowed, int threads) {
    // Keys hold 24 bits of distance and 40 of index.
    require(length(queries, 1) == length(codes, 1) && length(queries, 1) < 1 << 18 &&
                length(codes, 0) < int64_t{1} << 40,
            "codes of equal lengths were expected");
    require_fit(!allowed || length(*allowed, 0) == length(codes, 0));
    return {queries.data(),   length(queries, 0), codes.data(),
            length(codes, 0), length(codes, 1),   checked_threads(threads),
            allowed ? reinterpret_cast<const uint8_t *>(allowed->data()) : nullptr};
}

// A NumPy array that takes over the vector.
template <class T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> owned(std::vector<T> values) {
    auto *kept = new std::vector<T>(std::move(values));
    nb::capsule owner(kept, [](void *p) noexcept { delete static_cast<std::vector<T> *>(p); });
    return {kept->data(), {kept->size()}, owner};
}

}  // namespace

void bind_hamming(nb::module_ &m) {
    define(m, "hamming", [](Codes a, Codes b, Array<int32_t, 2> distances, int threads) {
        const HammingTask all = task(a, b, {}, threads);
        require_fit(length(distances, 0) == all.query_count && length(distances, 1) == all.code_count);
        GilReleased released;
        hamming_all(all, distances.data());
    });
    define(m, "hamming_topk",
           [](Codes queries, Codes codes, Allowed allowed, Array<int32_t, 2> distances, Array<int64_t, 2> indices,
              int threads) {
               const HammingTask search = task(queries, codes, allowed, threads);
               const int64_t k = length(distances, 1);
               const int64_t most = search.allowed == nullptr
                                        ? search.code_count
                                        : search.code_count - std::count(search.allowed,
                                                                         search.allowed + search.code_count, 0);
               require_fit(length(distances, 0) == search.query_count && length(indices, 0) == search.query_count &&
                           length(indices, 1) == k && k <= most);
               GilReleased released;
               hamming_nearest(search, k, distances.data(), indices.data());
           });
    // Returns where each query's results start, then distances and indices.
    define(m, "hamming_within", [](Codes queries, Codes codes, Allowed allowed, int32_t radius, int threads) {
        const HammingTask search = task(queries, codes, allowed, threads);
        require(radius >= 0 && radius <= 64 * search.words, "a radius of at most the length of a code was expected");
        std::vector<int64_t> starts{0}, indices;
        std::vector<int32_t> distances;
        {
            GilReleased released;
            const auto found = hamming_within(search, radius);
            for (const auto &keys : found) {
                for (const uint64_t key : keys) {
                    distances.push_back(static_cast<int32_t>(key >> 40));
                    indices.push_back(static_cast<int64_t>(key & ((uint64_t{1} << 40) - 1)));
                }
                starts.push_back(static_cast<int64_t>(indices.size()));
            }
        }
        return nb::make_tuple(owned(std::move(starts)), owned(std::move(distances)), owned(std::move(indices)));
    });
}

}  // namespace hypersign
