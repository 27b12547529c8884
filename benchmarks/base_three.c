/* Does a weight of 1.6 bits pay? Ternary weights at 2 bits and at 5 per byte, one row of 8-bit inputs.

       gcc -O3 -o base_three benchmarks/base_three.c && ./base_three

   Prints 10^9 weights a second, from memory (2^30 weights) and from a core's second cache, minimum over interleaved
   repeats. AVX-512: a table of 81 entries turns four base-3 digits into two bits each, comparisons give the fifth.
   AVX2: each digit is the top of three times the byte, as ggml's TQ1_0 computes it. It needs AVX-512 VBMI and VNNI. */

#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum { ROW = 20480 };
static int8_t x[ROW];
static uint8_t table[128];

#define WIDE __attribute__((target("avx512f,avx512bw,avx512vbmi,avx512vnni")))
#define NARROW __attribute__((target("avx2")))

WIDE static __m512i input(size_t at) { return _mm512_loadu_si512(x + at); }
NARROW static __m256i half_input(size_t at) { return _mm256_loadu_si256((const void *)(x + at)); }

WIDE static __m512i four(__m512i sum, __m512i codes, size_t at) {
    __m512i mask = _mm512_set1_epi8(3);
    for (int part = 0; part < 4; part++) {
        sum = _mm512_dpbusd_epi32(sum, _mm512_and_si512(codes, mask), input(at + 64 * part));
        codes = _mm512_srli_epi16(codes, 2);
    }
    return sum;
}

WIDE static int two_bits_512(const uint8_t *w, size_t bytes) {
    __m512i even = _mm512_setzero_si512(), odd = even;
    for (size_t i = 0, at = 0; i < bytes; i += 128, at = (at + 512) % ROW) {
        even = four(even, _mm512_loadu_si512(w + i), at);
        odd = four(odd, _mm512_loadu_si512(w + i + 64), at + 256);
    }
    return _mm512_reduce_add_epi32(_mm512_add_epi32(even, odd));
}

WIDE static int base_three_512(const uint8_t *w, size_t bytes) {
    __m512i sum = _mm512_setzero_si512(), fifth = sum;
    __m512i low = _mm512_loadu_si512(table), high = _mm512_loadu_si512(table + 64), step = _mm512_set1_epi8(81);
    for (size_t i = 0, at = 0; i < bytes; i += 64, at = (at + 320) % ROW) {
        __m512i byte = _mm512_loadu_si512(w + i);
        __mmask64 one = _mm512_cmpge_epu8_mask(byte, step);
        __mmask64 two = _mm512_cmpge_epu8_mask(byte, _mm512_set1_epi8((char)162));
        __m512i rest = _mm512_mask_sub_epi8(byte, one, byte, step);
        rest = _mm512_mask_sub_epi8(rest, two, rest, step);
        __m512i digit = _mm512_sub_epi8(_mm512_setzero_si512(),
                                        _mm512_add_epi8(_mm512_movm_epi8(one), _mm512_movm_epi8(two)));
        sum = four(sum, _mm512_permutex2var_epi8(low, rest, high), at);
        fifth = _mm512_dpbusd_epi32(fifth, digit, input(at + 256));
    }
    return _mm512_reduce_add_epi32(_mm512_add_epi32(sum, fifth));
}

NARROW static int total(__m256i sum) {
    int32_t part[8], whole = 0;
    _mm256_storeu_si256((void *)part, sum);
    for (int i = 0; i < 8; i++) whole += part[i];
    return whole;
}

NARROW static int two_bits_256(const uint8_t *w, size_t bytes) {
    __m256i sum = _mm256_setzero_si256(), mask = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
    for (size_t i = 0, at = 0; i < bytes; i += 32, at = (at + 128) % ROW) {
        __m256i codes = _mm256_loadu_si256((const void *)(w + i)), some = _mm256_setzero_si256();
        for (int part = 0; part < 4; part++) {
            __m256i level = _mm256_and_si256(codes, mask);
            some = _mm256_add_epi16(some, _mm256_maddubs_epi16(level, half_input(at + 32 * part)));
            codes = _mm256_srli_epi16(codes, 2);
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(some, ones));
    }
    return total(sum);
}

NARROW static int base_three_256(const uint8_t *w, size_t bytes) {
    __m256i zero = _mm256_setzero_si256(), sum = zero, mask = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
    for (size_t i = 0, at = 0; i < bytes; i += 32, at = (at + 160) % ROW) {
        __m256i byte = _mm256_loadu_si256((const void *)(w + i)), some = zero;
        for (int part = 0; part < 5; part++) {
            __m256i level = _mm256_avg_epu8(byte, _mm256_avg_epu8(byte, zero));
            level = _mm256_and_si256(_mm256_srli_epi16(level, 6), mask);
            some = _mm256_add_epi16(some, _mm256_maddubs_epi16(level, half_input(at + 32 * part)));
            byte = _mm256_add_epi8(byte, _mm256_add_epi8(byte, byte));
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(some, ones));
    }
    return total(sum);
}

static const struct {
    const char *name;
    int (*run)(const uint8_t *, size_t);
    int per_byte;
} WAYS[] = {{"AVX-512, 2 bits", two_bits_512, 4},
            {"AVX-512, 1.6 bits", base_three_512, 5},
            {"AVX2, 2 bits", two_bits_256, 4},
            {"AVX2, 1.6 bits", base_three_256, 5}};

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

static void compare(const char *where, const uint8_t *w, size_t weights, int repeats) {
    double least[4] = {1e9, 1e9, 1e9, 1e9};
    volatile int kept = 0;
    for (int r = 0; r < repeats; r++)
        for (int way = 0; way < 4; way++) {
            double start = seconds();
            kept += WAYS[way].run(w, weights / WAYS[way].per_byte);
            double spent = seconds() - start;
            if (spent < least[way]) least[way] = spent;
        }
    for (int way = 0; way < 4; way++) printf("%s, %s: %.1f\n", where, WAYS[way].name, weights / least[way] * 1e-9);
}

int main(void) {
    size_t weights = (size_t)64 * ROW * 819, size = weights / 4 + (2 << 20); /* about 2^30 */
    uint8_t *w = aligned_alloc(2 << 20, size / (2 << 20) * (2 << 20));
    madvise(w, size, MADV_HUGEPAGE);
    for (size_t i = 0; i < weights / 4; i++) w[i] = i * 37 % 243;
    for (int i = 0; i < ROW; i++) x[i] = i % 127;
    for (int i = 0; i < 81; i++) table[i] = i % 3 | i / 3 % 3 << 2 | i / 9 % 3 << 4 | i / 27 << 6;
    compare("from memory", w, weights, 9);
    compare("in cache", w, (size_t)64 * ROW, 200);
}
