// The Python module hypersign._native. Each operation binds itself in its own bind.cpp: checks there, arithmetic in
// the kernels. The arguments were checked once already by hypersign.bits, whose messages are the users'.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "backend.hpp"

namespace nb = nanobind;

namespace hypersign {
void bind_pack(nb::module_ &m);
void bind_product(nb::module_ &m);
void bind_pool(nb::module_ &m);
void bind_hadamard(nb::module_ &m);
void bind_hamming(nb::module_ &m);
void bind_image(nb::module_ &m);
void bind_real(nb::module_ &m);
void bind_gaussian(nb::module_ &m);
void bind_moments(nb::module_ &m);
void bind_gradient(nb::module_ &m);
}

NB_MODULE(_native, m) {
    using namespace hypersign;
    m.doc() = "Compiled kernels of HyperSign; use hypersign.bits.";
    m.def("backends", [] {
        std::vector<std::string> names;
        for (Backend backend : available_backends()) names.emplace_back(name(backend));
        return names;
    });
    m.def("backend", [] { return std::string(name(backend())); });
    m.def("use_backend", &use_backend);
    bind_pack(m);
    bind_product(m);
    bind_pool(m);
    bind_hadamard(m);
    bind_hamming(m);
    bind_image(m);
    bind_real(m);
    bind_gaussian(m);
    bind_moments(m);
    bind_gradient(m);
}
