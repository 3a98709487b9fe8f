/* kernel_avx512.h - leaves for x86-64 with AVX-512 F, DQ and VL (and all that kernel_avx2.h wants).
 *
 * Idea: kernel_body.h on vectors of 16 f32 or 8 f64 and 32 registers. The 16-bit conversions are those of AVX2: they
 * run at the rate of memory. AVX512_BF16 and AVX512_FP16 are left alone: they flush subnormals or sum in 16 bits.
 * Requires: avx512f, avx512dq and avx512vl of the processor, and an operating system that keeps the registers.
 * Tiles (channels x vectors): 1x8, 2x8, 3x6, 4x6, 5x4, 6x4, 8x3; woven rows 8 or 4 channels by 3 vectors, one phase
 * after the other; panels up to 14 positions by 2 vectors; stacks 4 rows by 4 vectors, 8 by 2 where rows are short.
 * Tall and narrow tiles keep down what comes from the second cache: 14 positions instead of 8 made long sums up to 12%
 * faster on a Xeon.
 * Measured, geometric mean over bench/workloads.csv at batch 1, one thread, of OpenBLAS's sgemm: 0.86 on a Xeon (sgemm
 * 150 GFLOP/s a core; shared, 60 to 130 in that run), 0.90 on an EPYC (Zen 4, 100 GFLOP/s); k3 s1 0.93 to 1.07.
 */
#ifndef CONVT3D_CPU_KERNEL_AVX512_H
#define CONVT3D_CPU_KERNEL_AVX512_H

#if defined(__clang__)
#  pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#  pragma GCC push_options
#  pragma GCC target("avx512f,avx512dq,avx512vl,avx2,fma,f16c")
#endif

CONVT3D__CPU_INLINE __m512i convt3d__avx512_count32(void)
{
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

CONVT3D__CPU_INLINE __m512i convt3d__avx512_count64(void) { return _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7); }

CONVT3D__CPU_INLINE __m512 convt3d__avx512_splat_f32(const float *from) { return _mm512_set1_ps(*from); }

CONVT3D__CPU_INLINE __m512 convt3d__avx512_evens_f32(__m512 a, __m512 b)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(a, even, b);
}

CONVT3D__CPU_INLINE void convt3d__avx512_zip_f32(__m512 *low, __m512 *high, __m512 a, __m512 b)
{
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i second = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    *low = _mm512_permutex2var_ps(a, first, b);
    *high = _mm512_permutex2var_ps(a, second, b);
}

#define LIST(name) convt3d__avx512_list_##name
#define LIST_BYTES 64
#define LIST_FMA _mm512_fmadd_ps
#define LIST_LARGER(a, b) _mm512_maskz_max_ps(0xffff, a, b)            /* g++ warns of those without a mask */
#define LIST_SMALLER(a, b) _mm512_maskz_min_ps(0xffff, a, b)
#define LIST_BELOW(a, b, yes, no) _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes)
#define LIST_FRACTION(z) _mm512_maskz_reduce_ps(0xffff, z, 0x09)
#define LIST_SCALE(v, z) _mm512_maskz_scalef_ps(0xffff, v, z)
#include "list_body.h"

#define LEAF(name) convt3d__avx512_f32_##name
#define LEAF_REAL float
#define LEAF_VECTOR __m512
#define LEAF_LANES 16
#define LEAF_LOAD _mm512_loadu_ps
#define LEAF_STORE _mm512_storeu_ps
#define LEAF_STREAM _mm512_stream_ps
#define LEAF_SPLAT convt3d__avx512_splat_f32
#define LEAF_FMA _mm512_fmadd_ps
#define LEAF_ADD _mm512_add_ps
#define LEAF_ZIP(low, high, a, b) convt3d__avx512_zip_f32(&(low), &(high), a, b)
#define LEAF_EVENS convt3d__avx512_evens_f32
#define LEAF_KEEP(v) __asm__("" : "+v"(v))
#define LEAF_COLUMNS_1 8
#define LEAF_COLUMNS_2 8
#define LEAF_COLUMNS_3 6
#define LEAF_COLUMNS_4 6
#define LEAF_COLUMNS_5 4
#define LEAF_COLUMNS_6 4
#define LEAF_COLUMNS_8 3
#define LEAF_STACK_COLUMNS 4
#define LEAF_POSITIONS 8
#define LEAF_PANEL_POSITIONS 14
#define LEAF_WOVEN_COLUMNS 3
#define LEAF_INDEX __m512i
#define LEAF_SHIFT_OF(lanes) _mm512_add_epi32(_mm512_set1_epi32(16 - (int)(lanes)), convt3d__avx512_count32())
#define LEAF_JOIN(low, index, high) _mm512_permutex2var_ps(low, index, high)
#define LEAF_STORE_SOME(p, v, first, end) \
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << (end)) - (1u << (first))), v)
#define LEAF_LARGER(a, b) _mm512_maskz_max_ps(0xffff, a, b)
#define LEAF_SMALLER(a, b) _mm512_maskz_min_ps(0xffff, a, b)
#define LEAF_LIST convt3d__avx512_list_list
#define LEAF_LIST_OF convt3d__avx512_list_of
#include "kernel_body.h"

CONVT3D__CPU_INLINE __m512d convt3d__avx512_splat_f64(const double *from) { return _mm512_set1_pd(*from); }

CONVT3D__CPU_INLINE __m512d convt3d__avx512_evens_f64(__m512d a, __m512d b)
{
    return _mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), b);
}

CONVT3D__CPU_INLINE void convt3d__avx512_zip_f64(__m512d *low, __m512d *high, __m512d a, __m512d b)
{
    const __m512i first = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    const __m512i second = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
    *low = _mm512_permutex2var_pd(a, first, b);
    *high = _mm512_permutex2var_pd(a, second, b);
}

CONVT3D__CPU_INLINE void convt3d__avx512_no_list(int32_t kind, float a, float b, const double *values, int64_t n)
{
    (void)kind;  (void)a;  (void)b;  (void)values;  (void)n;
}

CONVT3D__CPU_INLINE __m512d convt3d__avx512_no_entry(int32_t kind, __m512d v, float a, float b)
{
    (void)kind;  (void)a;  (void)b;
    return v;
}

#define LEAF(name) convt3d__avx512_f64_##name
#define LEAF_REAL double
#define LEAF_VECTOR __m512d
#define LEAF_LANES 8
#define LEAF_LOAD _mm512_loadu_pd
#define LEAF_STORE _mm512_storeu_pd
#define LEAF_STREAM _mm512_stream_pd
#define LEAF_SPLAT convt3d__avx512_splat_f64
#define LEAF_FMA _mm512_fmadd_pd
#define LEAF_ADD _mm512_add_pd
#define LEAF_ZIP(low, high, a, b) convt3d__avx512_zip_f64(&(low), &(high), a, b)
#define LEAF_EVENS convt3d__avx512_evens_f64
#define LEAF_KEEP(v) __asm__("" : "+v"(v))
#define LEAF_COLUMNS_1 8
#define LEAF_COLUMNS_2 8
#define LEAF_COLUMNS_3 6
#define LEAF_COLUMNS_4 6
#define LEAF_COLUMNS_5 4
#define LEAF_COLUMNS_6 4
#define LEAF_COLUMNS_8 3
#define LEAF_STACK_COLUMNS 4
#define LEAF_POSITIONS 8
#define LEAF_PANEL_POSITIONS 14
#define LEAF_WOVEN_COLUMNS 3
#define LEAF_INDEX __m512i
#define LEAF_SHIFT_OF(lanes) _mm512_add_epi64(_mm512_set1_epi64(8 - (int)(lanes)), convt3d__avx512_count64())
#define LEAF_JOIN(low, index, high) _mm512_permutex2var_pd(low, index, high)
#define LEAF_STORE_SOME(p, v, first, end) \
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << (end)) - (1u << (first))), v)
#define LEAF_LARGER(a, b) _mm512_maskz_max_pd(0xff, a, b)
#define LEAF_SMALLER(a, b) _mm512_maskz_min_pd(0xff, a, b)
#define LEAF_LIST convt3d__avx512_no_list
#define LEAF_LIST_OF convt3d__avx512_no_entry
#include "kernel_body.h"

static const convt3d__cpu_leaves convt3d__avx512_leaves = {
    {{NULL, convt3d__avx512_f32_line1, convt3d__avx512_f32_line2, convt3d__avx512_f32_line3, convt3d__avx512_f32_line4,
      convt3d__avx512_f32_line5, convt3d__avx512_f32_line6, NULL, convt3d__avx512_f32_line8},
     {NULL, convt3d__avx512_f64_line1, convt3d__avx512_f64_line2, convt3d__avx512_f64_line3, convt3d__avx512_f64_line4,
      convt3d__avx512_f64_line5, convt3d__avx512_f64_line6, NULL, convt3d__avx512_f64_line8}},
    {convt3d__avx512_f32_stack, convt3d__avx512_f64_stack},
    {{convt3d__avx512_f32_panel1, convt3d__avx512_f32_panel2},
     {convt3d__avx512_f64_panel1, convt3d__avx512_f64_panel2}},
    {16, 8},
    {convt3d__avx512_f32_outer, convt3d__avx512_f64_outer},
    8,
    {convt3d__avx512_f32_total, convt3d__avx512_f64_total},
    {convt3d__avx512_f32_add, convt3d__avx512_f64_add},
    {convt3d__avx512_f32_evens, convt3d__avx512_f64_evens},
    {convt3d__avx512_f32_weave, convt3d__avx512_f64_weave},
    {convt3d__avx512_f32_woven, convt3d__avx512_f64_woven},
    {convt3d__avx2_widen_f16, convt3d__avx2_widen_bf16},
    {convt3d__avx2_narrow_f16, convt3d__avx2_narrow_bf16},
    {convt3d__avx2_transpose_f32, convt3d__avx2_transpose_f64},
    convt3d__avx2_fence,
    convt3d__avx512_list_list, convt3d__avx512_list_affine
};

#if defined(__clang__)
#  pragma clang attribute pop
#else
#  pragma GCC pop_options
#endif
#endif
