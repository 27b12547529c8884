#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "hamming/hamming.hpp"

namespace nb = nanobind;

namespace hypersign {
namespace {

template <class T, int dimensions>
using Array = nb::ndarray<T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
using Codes = Array<const uint64_t, 2>;

HammingTask task(const Codes &queries, const Codes &codes, int threads) {
    // Keys hold 24 bits of distance and 40 of index.
    if (queries.shape(1) != codes.shape(1) || queries.shape(1) >= (size_t{1} << 18) ||
        codes.shape(0) >= (size_t{1} << 40))
        throw nb::value_error("codes that do not fit each other");
    return {queries.data(), static_cast<int64_t>(queries.shape(0)), codes.data(),
            static_cast<int64_t>(codes.shape(0)), static_cast<int64_t>(codes.shape(1)), threads};
}

// A NumPy array that owns what the vector held.
template <class T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> owned(std::vector<T> values) {
    auto *kept = new std::vector<T>(std::move(values));
    nb::capsule owner(kept, [](void *p) noexcept { delete static_cast<std::vector<T> *>(p); });
    return {kept->data(), {kept->size()}, owner};
}

}  // namespace

void bind_hamming(nb::module_ &m) {
    m.def("hamming", [](Codes a, Codes b, Array<int32_t, 2> distances, int threads) {
        const HammingTask all = task(a, b, threads);
        if (distances.shape(0) != a.shape(0) || distances.shape(1) != b.shape(0))
            throw nb::value_error("arrays that do not fit each other");
        nb::gil_scoped_release release;
        hamming_all(all, distances.data());
    });
    m.def("hamming_topk",
          [](Codes queries, Codes codes, Array<int32_t, 2> distances, Array<int64_t, 2> indices, int threads) {
              const HammingTask search = task(queries, codes, threads);
              const size_t k = distances.shape(1);
              if (distances.shape(0) != queries.shape(0) || indices.shape(0) != queries.shape(0) ||
                  indices.shape(1) != k || k > codes.shape(0))
                  throw nb::value_error("arrays that do not fit each other");
              nb::gil_scoped_release release;
              hamming_nearest(search, static_cast<int64_t>(k), distances.data(), indices.data());
          });
    m.def("hamming_within", [](Codes queries, Codes codes, int32_t radius, int threads) {
        const HammingTask search = task(queries, codes, threads);
        std::vector<int64_t> starts{0}, indices;
        std::vector<int32_t> distances;
        {
            nb::gil_scoped_release release;
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
