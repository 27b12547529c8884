// The Python module hypersign._native. Each operation binds itself in its own bind.cpp, which checks the arguments
// (bind.hpp); the arithmetic is in the kernels. hypersign.bits checks before, with messages for users.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "bind.hpp"
#include "instruction_sets.hpp"

namespace hypersign {
void bind_pack(nb::module_ &m);
void bind_product(nb::module_ &m);
void bind_product8(nb::module_ &m);
void bind_pool(nb::module_ &m);
void bind_hadamard(nb::module_ &m);
void bind_hamming(nb::module_ &m);
void bind_image(nb::module_ &m);
void bind_real(nb::module_ &m);
void bind_elementwise(nb::module_ &m);
void bind_gaussian(nb::module_ &m);
void bind_moments(nb::module_ &m);
void bind_gradient(nb::module_ &m);
void bind_levels(nb::module_ &m);
void bind_training(nb::module_ &m);
}

NB_MODULE(_native, m) {
    using namespace hypersign;
    m.doc() = "Compiled kernels of HyperSign; use hypersign.bits.";
    nb::set_leak_warnings(false);  // a network in a daemon thread outlives the interpreter, which is no leak
    m.def("backends", [] {
        std::vector<std::string> names;
        for (const InstructionSet &set : instruction_sets()) names.emplace_back(set.name);
        return names;
    });
    m.def("backend", [] { return std::string(instruction_set().name); });
    m.def("use_backend", &use_instruction_set);
    nb::class_<Call>(m, "Call").def("__call__", [](const Call &call, int threads) {
        threads = checked_threads(threads);
        GilReleased released;
        call.run(threads);
    });
    // Makes several calls one, without Python between them.
    m.def("sequence", [](nb::list calls) {
        std::vector<const Call *> each;
        for (nb::handle call : calls) {
            require(nb::isinstance<Call>(call), "a list of calls was expected");
            each.push_back(nb::cast<const Call *>(call));
        }
        return Call{[kept = nb::tuple(calls), each](int threads) {
            for (const Call *call : each) call->run(threads);
        }};
    });
    bind_pack(m);
    bind_product(m);
    bind_product8(m);
    bind_pool(m);
    bind_hadamard(m);
    bind_hamming(m);
    bind_image(m);
    bind_real(m);
    bind_elementwise(m);
    bind_gaussian(m);
    bind_moments(m);
    bind_gradient(m);
    bind_levels(m);
    bind_training(m);
}
