// Limits of a machine, for benchmarks: reading memory, and multiplying bytes on registers alone.
//     cc -O3 -march=native -shared -fPIC machine_limits.c -o machine_limits.so
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

#define HUGE_PAGE ((size_t)1 << 21)

// `size` bytes, written once, in huge pages as the weights of the kernels are.
void *memory(size_t size) {
    void *p = aligned_alloc(HUGE_PAGE, (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    if (p == NULL) return NULL;
#if defined(__linux__)
    madvise(p, size, MADV_HUGEPAGE);
#endif
    memset(p, 1, size);
    return p;
}

// The sum of 64-bit words, in 16 sums at a time, so that no addition waits for another.
uint64_t read_all(const uint64_t *words, size_t size) {
    uint64_t sums[16] = {0}, sum = 0;
    for (size_t i = 0; i + 16 <= size / 8; i += 16) {
        __builtin_prefetch(words + i + 512);
        for (int j = 0; j < 16; ++j) sums[j] += words[i + j];
    }
    for (int j = 0; j < 16; ++j) sum += sums[j];
    return sum;
}

// vpdpbusd on registers alone, with random data, because power depends on it. Returns the multiply-accumulates; 0
// without AVX-512 VNNI.
int64_t dot_products(int64_t rounds) {
#if defined(__AVX512VNNI__)
    enum { kSums = 16, kWeights = 8 };
    const __m512i x = _mm512_set1_epi64(0x3ca5781be92d46f1);
    __m512i sums[kSums], weights[kWeights];
#pragma GCC unroll 8
    for (int i = 0; i < kWeights; ++i)
        weights[i] = _mm512_mullo_epi32(_mm512_set_epi32(1, 9, 5, 3, 8, 2, 6, 7, 4, 11, 13, 15, 12, 14, 10, 16),
                                        _mm512_set1_epi32((int)(0x9e3779b1u * (unsigned)(2 * i + 1))));
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sums[i] = x;
    for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 16
        for (int i = 0; i < kSums; ++i)
            __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sums[i]) : "v"(weights[i % kWeights]), "v"(x));
    return rounds * kSums * 64;
#else
    (void)rounds;
    return 0;
#endif
}
