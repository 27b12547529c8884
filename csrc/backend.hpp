// Which instruction set the kernels use: chosen when the module is loaded, and changed only by use_backend.
#pragma once
#include <string>
#include <vector>

namespace hypersign {

enum class Backend { portable, avx2, avx512, neon };

// The instruction sets this machine and this build have, slowest first; portable is always there.
std::vector<Backend> available_backends();

// The instruction set in use.
Backend backend();

const char *name(Backend backend);

// Makes the kernels use an instruction set; throws std::invalid_argument where it is not available.
void use_backend(const std::string &name);

}  // namespace hypersign
