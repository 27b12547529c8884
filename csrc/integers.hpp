// Small functions of integers. In an anonymous namespace: each file compiles its own with its own instruction set.
#pragma once
#include <cstdint>

namespace hypersign {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// splitmix64 (Steele, Lea & Flood 2014): element `i` of the sequence that `seed` starts.
constexpr uint64_t splitmix64(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

}  // namespace
}  // namespace hypersign
