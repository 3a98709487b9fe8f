/* ceilings.h - what the CPU can do at best: a STREAM-like copy, multiply-adds that never leave the registers, and
 * OpenBLAS's matrix product where the machine has it.
 *
 * Each leaf runs rounds * 12 multiply-adds on vectors in 12 independent chains, enough to hide the latency of two
 * units, and returns a sum so that nothing is optimised away. Leaves know no threads; the drivers call them by
 * pointer. A compiler without target attributes, or another processor, gets the portable leaf.
 */
#ifndef TOOLS_CEILINGS_H
#define TOOLS_CEILINGS_H

#include "platform.h"

#include <stdlib.h>
#include <string.h>
#ifdef TOOLS_DL
#  include <dlfcn.h>
#endif

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#  define CEILINGS_X86
#  include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#  define CEILINGS_NEON
#  include <arm_neon.h>
#endif
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 8
#  define CEILINGS_UNROLL _Pragma("GCC unroll 12")
#else
#  define CEILINGS_UNROLL
#endif

enum { FMA_CHAINS = 12, FMA_ROUNDS = 200000, CEILING_REPEATS = 7 };

typedef struct fma_leaf {
    const char *name;
    double (*run)(int64_t rounds);
    int lanes, is_f64;
} fma_leaf;

/* One leaf: VECTOR accumulators, SET broadcasts, FMA(a, b, c) = a*b + c, FIRST reads lane 0. */
#define CEILINGS_LEAF(NAME, ATTRIBUTE, VECTOR, SET, FMA, FIRST) \
    ATTRIBUTE static double NAME(int64_t rounds) \
    { \
        VECTOR chain[FMA_CHAINS], factor = SET(0.5), term = SET(1.0); \
        double sum = 0; \
        int64_t r; \
        int c; \
        for (c = 0; c < FMA_CHAINS; c++) chain[c] = SET((1 + c)); \
        for (r = 0; r < rounds; r++) { \
            CEILINGS_UNROLL \
            for (c = 0; c < FMA_CHAINS; c++) chain[c] = FMA(chain[c], factor, term); \
        } \
        for (c = 0; c < FMA_CHAINS; c++) sum += (double)FIRST(chain[c]); \
        return sum; \
    }

#define CEILINGS_SELF(a) (a)
#define CEILINGS_F32(a) ((float)(a))
#define CEILINGS_F64(a) ((double)(a))
#define CEILINGS_MUL_ADD(a, b, c) ((a) * (b) + (c))
CEILINGS_LEAF(fma_portable_f32, , float, CEILINGS_F32, CEILINGS_MUL_ADD, CEILINGS_SELF)
CEILINGS_LEAF(fma_portable_f64, , double, CEILINGS_F64, CEILINGS_MUL_ADD, CEILINGS_SELF)

#ifdef CEILINGS_X86
#define CEILINGS_AVX2 __attribute__((target("avx2,fma")))
#define CEILINGS_AVX512 __attribute__((target("avx512f")))
#define CEILINGS_SET8(a) _mm256_set1_ps((float)(a))
#define CEILINGS_SET4(a) _mm256_set1_pd((double)(a))
#define CEILINGS_SET16(a) _mm512_set1_ps((float)(a))
#define CEILINGS_SET8D(a) _mm512_set1_pd((double)(a))
#define CEILINGS_LOW512(a) _mm_cvtss_f32(_mm512_castps512_ps128(a))
#define CEILINGS_LOW512D(a) _mm_cvtsd_f64(_mm512_castpd512_pd128(a))
#define CEILINGS_LOW256(a) _mm_cvtss_f32(_mm256_castps256_ps128(a))
#define CEILINGS_LOW256D(a) _mm_cvtsd_f64(_mm256_castpd256_pd128(a))
CEILINGS_LEAF(fma_avx2_f32, CEILINGS_AVX2, __m256, CEILINGS_SET8, _mm256_fmadd_ps, CEILINGS_LOW256)
CEILINGS_LEAF(fma_avx2_f64, CEILINGS_AVX2, __m256d, CEILINGS_SET4, _mm256_fmadd_pd, CEILINGS_LOW256D)
CEILINGS_LEAF(fma_avx512_f32, CEILINGS_AVX512, __m512, CEILINGS_SET16, _mm512_fmadd_ps, CEILINGS_LOW512)
CEILINGS_LEAF(fma_avx512_f64, CEILINGS_AVX512, __m512d, CEILINGS_SET8D, _mm512_fmadd_pd, CEILINGS_LOW512D)
#endif

#ifdef CEILINGS_NEON
#define CEILINGS_NEON_FMA(a, b, c) vfmaq_f32((c), (a), (b))
#define CEILINGS_NEON_FMAD(a, b, c) vfmaq_f64((c), (a), (b))
#define CEILINGS_NEON_SET(a) vdupq_n_f32((float)(a))
#define CEILINGS_NEON_SETD(a) vdupq_n_f64((double)(a))
#define CEILINGS_NEON_LOW(a) vgetq_lane_f32((a), 0)
#define CEILINGS_NEON_LOWD(a) vgetq_lane_f64((a), 0)
CEILINGS_LEAF(fma_neon_f32, , float32x4_t, CEILINGS_NEON_SET, CEILINGS_NEON_FMA, CEILINGS_NEON_LOW)
CEILINGS_LEAF(fma_neon_f64, , float64x2_t, CEILINGS_NEON_SETD, CEILINGS_NEON_FMAD, CEILINGS_NEON_LOWD)
#endif

/* The leaves that this processor can run: at most 6. Returns their number. */
static int fma_leaves(fma_leaf leaves[6])
{
    int count = 0;
    const fma_leaf plain_f32 = {"portable", fma_portable_f32, 1, 0}, plain_f64 = {"portable", fma_portable_f64, 1, 1};
    leaves[count++] = plain_f32;
    leaves[count++] = plain_f64;
#ifdef CEILINGS_X86
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        const fma_leaf f32 = {"avx2", fma_avx2_f32, 8, 0}, f64 = {"avx2", fma_avx2_f64, 4, 1};
        leaves[count++] = f32;
        leaves[count++] = f64;
    }
    if (__builtin_cpu_supports("avx512f")) {
        const fma_leaf f32 = {"avx512", fma_avx512_f32, 16, 0}, f64 = {"avx512", fma_avx512_f64, 8, 1};
        leaves[count++] = f32;
        leaves[count++] = f64;
    }
#endif
#ifdef CEILINGS_NEON
    {
        const fma_leaf f32 = {"neon", fma_neon_f32, 4, 0}, f64 = {"neon", fma_neon_f64, 2, 1};
        leaves[count++] = f32;
        leaves[count++] = f64;
    }
#endif
    return count;
}

/* GFLOP/s of one leaf with every thread at it: the best of some repeats. */
static double measure_fma(const fma_leaf *leaf, int threads)
{
    const double work = 2e-9 * FMA_CHAINS * FMA_ROUNDS * leaf->lanes * threads;
    double best = 0;
    int r, t;
    for (r = 0; r < CEILING_REPEATS; r++) {
        double start = platform_seconds(), seconds, sum = 0;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : sum)
#endif
        for (t = 0; t < threads; t++) sum += leaf->run(FMA_ROUNDS);
        seconds = platform_seconds() - start;
        if (sum > 0 && seconds > 0 && work / seconds > best) best = work / seconds;
    }
    return best;
}

/* GB/s of copying between two buffers far larger than the caches, bytes read plus bytes written; 0: no memory. */
static double measure_copy(size_t bytes, int threads)
{
    char *from = (char *)malloc(bytes), *to = (char *)malloc(bytes);
    const size_t part = bytes / (size_t)threads;
    double best = 0;
    int r, t;
    for (r = -1; from && to && r < CEILING_REPEATS; r++) {          /* the first touches the pages */
        double start = platform_seconds(), seconds;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static)
#endif
        for (t = 0; t < threads; t++) {
            if (r < 0) memset(from + (size_t)t * part, 1, part);
            memcpy(to + (size_t)t * part, from + (size_t)t * part, part);
        }
        seconds = platform_seconds() - start;
        if (r >= 0 && seconds > 0 && 2e-9 * (double)part * threads / seconds > best) {
            best = 2e-9 * (double)part * threads / seconds;
        }
    }
    free(from);
    free(to);
    return best;
}

#ifdef TOOLS_DL
enum { GEMM_SIZE = 1152 };

/* cblas_sgemm and cblas_dgemm, by the type of OpenBLAS's integers. */
#define CEILINGS_GEMM(REAL, INTEGER) \
    void (*)(int order, int a_form, int b_form, INTEGER m, INTEGER n, INTEGER k, REAL alpha, const REAL *a, \
             INTEGER a_pitch, const REAL *b, INTEGER b_pitch, REAL beta, REAL *c, INTEGER c_pitch)

typedef struct gemm_calls {
    void (*gemm[2])(void);              /* f32, f64 */
    int wide;                           /* its integers have 64 bits */
} gemm_calls;

/* Row-major C = A*B of squares of GEMM_SIZE that lie one behind the other. */
static void call_gemm(const gemm_calls *blas, int is_f64, double *memory)
{
    const int n = GEMM_SIZE;
    const size_t count = (size_t)n * (size_t)n;
    float *single = (float *)memory;
    if (blas->wide && is_f64)
        ((CEILINGS_GEMM(double, int64_t))blas->gemm[1])(101, 111, 111, n, n, n, 1, memory, n, memory + count, n, 0,
                                                        memory + 2 * count, n);
    else if (blas->wide)
        ((CEILINGS_GEMM(float, int64_t))blas->gemm[0])(101, 111, 111, n, n, n, 1, single, n, single + count, n, 0,
                                                       single + 2 * count, n);
    else if (is_f64)
        ((CEILINGS_GEMM(double, int))blas->gemm[1])(101, 111, 111, n, n, n, 1, memory, n, memory + count, n, 0,
                                                    memory + 2 * count, n);
    else
        ((CEILINGS_GEMM(float, int))blas->gemm[0])(101, 111, 111, n, n, n, 1, single, n, single + count, n, 0,
                                                   single + 2 * count, n);
}

/* GFLOP/s on ones and twos; best of some repeats. */
static double measure_gemm_of(const gemm_calls *blas, int is_f64)
{
    const size_t count = (size_t)GEMM_SIZE * GEMM_SIZE;
    const double work = 2e-9 * (double)count * GEMM_SIZE;
    double *memory = (double *)malloc(3 * count * sizeof *memory), best = 0;
    size_t i;
    int r;
    for (i = 0; memory && i < 2 * count; i++) {
        if (is_f64) memory[i] = (double)(1 + i % 2);
        else ((float *)memory)[i] = (float)(1 + i % 2);
    }
    for (r = -1; memory && r < CEILING_REPEATS; r++) {
        double start = platform_seconds(), seconds;
        call_gemm(blas, is_f64, memory);
        seconds = platform_seconds() - start;
        if (r >= 0 && seconds > 0 && work / seconds > best) best = work / seconds;
    }
    free(memory);
    return best;
}

/* A function of OpenBLAS as some build of it calls it: plain, or with SciPy's prefix, or with 64-bit integers. */
static void *find_blas(void *library, const char *prefix, const char *name, int wide)
{
    char full[64];
    snprintf(full, sizeof full, "%s%s%s", prefix, name, wide ? "64_" : "");
    return dlsym(library, full);
}
#endif

/* GFLOP/s of OpenBLAS's sgemm and dgemm; left alone where it is missing. It is loaded for this only: the library that
 * OPENBLAS names (the one inside numpy.libs will do), or the system's. */
static void measure_gemm(int threads, double gflops[2])
{
#ifdef TOOLS_DL
    const char *file = getenv("OPENBLAS");
    void *library = dlopen(file ? file : "libopenblas.so.0", RTLD_NOW);
    int build;
    for (build = 0; library && build < 4; build++) {
        const char *prefix = build / 2 ? "scipy_" : "";
        void (*set_threads)(int count);
        gemm_calls blas;
        blas.wide = build % 2;
        *(void **)&set_threads = find_blas(library, prefix, "openblas_set_num_threads", blas.wide);
        *(void **)&blas.gemm[0] = find_blas(library, prefix, "cblas_sgemm", blas.wide);
        *(void **)&blas.gemm[1] = find_blas(library, prefix, "cblas_dgemm", blas.wide);
        if (!set_threads || !blas.gemm[0] || !blas.gemm[1]) continue;
        set_threads(threads);
        gflops[0] = measure_gemm_of(&blas, 0);
        gflops[1] = measure_gemm_of(&blas, 1);
        return;
    }
#else
    (void)threads;
    (void)gflops;
#endif
}

#endif
