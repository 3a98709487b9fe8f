/* kernel_avx2.h - leaves for x86-64 with AVX2, FMA and F16C.
 *
 * Idea: kernel_body.h on vectors of 8 f32 or 4 f64. 16 registers hold rows*columns sums, the columns of x a weight.
 * Requires: avx2, fma and f16c of the processor, and an operating system that keeps the upper halves.
 * Tiles (channels x vectors): 1x8, 2x5, 3x3, 4x3, 5x2, 6x2.
 * Measured on one core of an EPYC (Zen 3, 103 GFLOP/s of f32 multiply-adds in registers, OpenBLAS sgemm 90), 48 input
 * channels, 27 taps: 4x3 94, 6x2 95, 5x2 93, 3x3 86, 2x5 52, 1x8 48 GFLOP/s. The last two are bound by loads.
 */
#ifndef CONVT3D_CPU_KERNEL_AVX2_H
#define CONVT3D_CPU_KERNEL_AVX2_H

#if defined(__clang__)
#  pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#  pragma GCC push_options
#  pragma GCC target("avx2,fma,f16c")
#endif

#define LEAF(name) convt3d__avx2_f32_##name
#define LEAF_REAL float
#define LEAF_VECTOR __m256
#define LEAF_LANES 8
#define LEAF_LOAD _mm256_loadu_ps
#define LEAF_STORE _mm256_storeu_ps
#define LEAF_STREAM _mm256_stream_ps
#define LEAF_SPLAT _mm256_broadcast_ss
#define LEAF_FMA _mm256_fmadd_ps
#define LEAF_ADD _mm256_add_ps
#define LEAF_ZIP(low, high, a, b) convt3d__avx2_zip_f32(&(low), &(high), a, b)
#define LEAF_EVENS convt3d__avx2_evens_f32
#define LEAF_KEEP(v) __asm__("" : "+x"(v))
#define LEAF_COLUMNS_1 8
#define LEAF_COLUMNS_2 5
#define LEAF_COLUMNS_3 3
#define LEAF_COLUMNS_4 3
#define LEAF_COLUMNS_5 2
#define LEAF_COLUMNS_6 2
#define LEAF_COLUMNS_8 0
#define LEAF_STACK_COLUMNS 2
#define LEAF_POSITIONS 6
#define LEAF_PANEL_POSITIONS 6
CONVT3D__CPU_INLINE __m256 convt3d__avx2_evens_f32(__m256 a, __m256 b)
{
    __m256d pairs = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));       /* a0 a2 b0 b2 a4 a6 b4 b6 */
    return _mm256_castpd_ps(_mm256_permute4x64_pd(pairs, 0xd8));
}

CONVT3D__CPU_INLINE void convt3d__avx2_zip_f32(__m256 *low, __m256 *high, __m256 a, __m256 b)
{
    __m256 l = _mm256_unpacklo_ps(a, b), h = _mm256_unpackhi_ps(a, b);
    *low = _mm256_permute2f128_ps(l, h, 0x20);
    *high = _mm256_permute2f128_ps(l, h, 0x31);
}
#include "kernel_body.h"

#define LEAF(name) convt3d__avx2_f64_##name
#define LEAF_REAL double
#define LEAF_VECTOR __m256d
#define LEAF_LANES 4
#define LEAF_LOAD _mm256_loadu_pd
#define LEAF_STORE _mm256_storeu_pd
#define LEAF_STREAM _mm256_stream_pd
#define LEAF_SPLAT _mm256_broadcast_sd
#define LEAF_FMA _mm256_fmadd_pd
#define LEAF_ADD _mm256_add_pd
#define LEAF_ZIP(low, high, a, b) convt3d__avx2_zip_f64(&(low), &(high), a, b)
#define LEAF_EVENS convt3d__avx2_evens_f64
#define LEAF_KEEP(v) __asm__("" : "+x"(v))
#define LEAF_COLUMNS_1 8
#define LEAF_COLUMNS_2 5
#define LEAF_COLUMNS_3 3
#define LEAF_COLUMNS_4 3
#define LEAF_COLUMNS_5 2
#define LEAF_COLUMNS_6 2
#define LEAF_COLUMNS_8 0
#define LEAF_STACK_COLUMNS 2
#define LEAF_POSITIONS 6
#define LEAF_PANEL_POSITIONS 6
CONVT3D__CPU_INLINE __m256d convt3d__avx2_evens_f64(__m256d a, __m256d b)
{
    return _mm256_permute4x64_pd(_mm256_unpacklo_pd(a, b), 0xd8);
}

CONVT3D__CPU_INLINE void convt3d__avx2_zip_f64(__m256d *low, __m256d *high, __m256d a, __m256d b)
{
    __m256d l = _mm256_unpacklo_pd(a, b), h = _mm256_unpackhi_pd(a, b);
    *low = _mm256_permute2f128_pd(l, h, 0x20);
    *high = _mm256_permute2f128_pd(l, h, 0x31);
}
#include "kernel_body.h"

/* ---- 16-bit types ---- */

static void convt3d__avx2_widen_f16(float *to, const uint16_t *from, int64_t n)
{
    int64_t i;
    for (i = 0; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(from + i))));
    for (; i < n; i++) to[i] = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(from[i])));
}

static void convt3d__avx2_narrow_f16(uint16_t *to, const float *from, int64_t n)
{
    int64_t i;
    for (i = 0; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(to + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < n; i++)
        to[i] = (uint16_t)_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(from[i]), _MM_FROUND_TO_NEAREST_INT));
}

static void convt3d__avx2_widen_bf16(float *to, const uint16_t *from, int64_t n)
{
    int64_t i;
    for (i = 0; i + 8 <= n; i += 8) {
        __m128i half = _mm_loadu_si128((const __m128i *)(const void *)(from + i));
        _mm256_storeu_ps(to + i, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16)));
    }
    for (; i < n; i++) to[i] = convt3d__cpu_float_of_bits((uint32_t)from[i] << 16);
}

/* To nearest, ties to even: adds 0x7fff and the last bit that stays. A NaN is made quiet instead. */
static void convt3d__avx2_narrow_bf16(uint16_t *to, const float *from, int64_t n)
{
    const __m256i one = _mm256_set1_epi32(1), half = _mm256_set1_epi32(0x7fff), quiet = _mm256_set1_epi32(0x400000);
    int64_t i;
    for (i = 0; i + 8 <= n; i += 8) {
        __m256 value = _mm256_loadu_ps(from + i);
        __m256i bits = _mm256_castps_si256(value), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
        __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, half), odd), packed;
        __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
        rounded = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, _mm256_or_si256(bits, quiet), nan), 16);
        packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
        _mm_storeu_si128((__m128i *)(void *)(to + i), _mm256_castsi256_si128(packed));
    }
    for (; i < n; i++) to[i] = convt3d__cpu_bf16_of_f32(from[i]);
}

/* ---- transposes: squares of a vector; the last ones end with the matrix and repeat some values ---- */

CONVT3D__CPU_INLINE void convt3d__avx2_square_f32(float *to, int64_t to_pitch, const float *from, int64_t from_pitch)
{
    __m256 a[8], b[8];
    int i;
    CONVT3D__CPU_UNROLL
    for (i = 0; i < 8; i++) a[i] = _mm256_loadu_ps(from + i * from_pitch);
    CONVT3D__CPU_UNROLL
    for (i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    CONVT3D__CPU_UNROLL
    for (i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    CONVT3D__CPU_UNROLL
    for (i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + i * to_pitch, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * to_pitch, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}

CONVT3D__CPU_INLINE void convt3d__avx2_square_f64(double *to, int64_t to_pitch, const double *from, int64_t from_pitch)
{
    __m256d a0 = _mm256_loadu_pd(from), a1 = _mm256_loadu_pd(from + from_pitch);
    __m256d a2 = _mm256_loadu_pd(from + 2 * from_pitch), a3 = _mm256_loadu_pd(from + 3 * from_pitch);
    __m256d b0 = _mm256_unpacklo_pd(a0, a1), b1 = _mm256_unpackhi_pd(a0, a1);
    __m256d b2 = _mm256_unpacklo_pd(a2, a3), b3 = _mm256_unpackhi_pd(a2, a3);
    _mm256_storeu_pd(to, _mm256_permute2f128_pd(b0, b2, 0x20));
    _mm256_storeu_pd(to + to_pitch, _mm256_permute2f128_pd(b1, b3, 0x20));
    _mm256_storeu_pd(to + 2 * to_pitch, _mm256_permute2f128_pd(b0, b2, 0x31));
    _mm256_storeu_pd(to + 3 * to_pitch, _mm256_permute2f128_pd(b1, b3, 0x31));
}

static void convt3d__avx2_transpose_f32(void *to, int64_t to_pitch, const void *from, int64_t from_pitch, int64_t rows,
                                        int64_t columns)
{
    int64_t r, c, i, row, column;
    if (rows < 8 || columns < 8) {
        convt3d__portable_transpose_f32(to, to_pitch, from, from_pitch, rows, columns);
        return;
    }
    for (c = 0; c < columns; c += 16)                   /* a line of the cache, while it is near */
        for (r = 0; r < rows; r += 8)
            for (i = c; i < convt3d__min(c + 16, columns); i += 8) {
                column = convt3d__min(i, columns - 8);
                row = convt3d__min(r, rows - 8);
                convt3d__avx2_square_f32((float *)to + column * to_pitch + row, to_pitch,
                                         (const float *)from + row * from_pitch + column, from_pitch);
            }
}

static void convt3d__avx2_transpose_f64(void *to, int64_t to_pitch, const void *from, int64_t from_pitch, int64_t rows,
                                        int64_t columns)
{
    int64_t r, c, row, column;
    if (rows < 4 || columns < 4) {
        convt3d__portable_transpose_f64(to, to_pitch, from, from_pitch, rows, columns);
        return;
    }
    for (c = 0; c < columns; c += 4) {
        column = convt3d__min(c, columns - 4);
        for (r = 0; r < rows; r += 4) {
            row = convt3d__min(r, rows - 4);
            convt3d__avx2_square_f64((double *)to + column * to_pitch + row, to_pitch,
                                     (const double *)from + row * from_pitch + column, from_pitch);
        }
    }
}

static void convt3d__avx2_fence(void) { _mm_sfence(); }

#define LIST(name) convt3d__avx2_list_##name
#define LIST_BYTES 32
#define LIST_FMA _mm256_fmadd_ps
#define LIST_LARGER _mm256_max_ps
#define LIST_SMALLER _mm256_min_ps
#define LIST_BELOW(a, b, yes, no) _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ))
#include "list_body.h"

static const convt3d__cpu_leaves convt3d__avx2_leaves = {
    {{NULL, convt3d__avx2_f32_line1, convt3d__avx2_f32_line2, convt3d__avx2_f32_line3, convt3d__avx2_f32_line4,
      convt3d__avx2_f32_line5, convt3d__avx2_f32_line6, NULL, NULL},
     {NULL, convt3d__avx2_f64_line1, convt3d__avx2_f64_line2, convt3d__avx2_f64_line3, convt3d__avx2_f64_line4,
      convt3d__avx2_f64_line5, convt3d__avx2_f64_line6, NULL, NULL}},
    {convt3d__avx2_f32_stack, convt3d__avx2_f64_stack},
    {{convt3d__avx2_f32_panel1, convt3d__avx2_f32_panel2}, {convt3d__avx2_f64_panel1, convt3d__avx2_f64_panel2}},
    {8, 4},
    {convt3d__avx2_f32_outer, convt3d__avx2_f64_outer},
    6,
    {convt3d__avx2_f32_total, convt3d__avx2_f64_total},
    {convt3d__avx2_f32_add, convt3d__avx2_f64_add},
    {convt3d__avx2_f32_evens, convt3d__avx2_f64_evens},
    {convt3d__avx2_f32_weave, convt3d__avx2_f64_weave},
    {NULL, NULL},
    {convt3d__avx2_widen_f16, convt3d__avx2_widen_bf16},
    {convt3d__avx2_narrow_f16, convt3d__avx2_narrow_bf16},
    {convt3d__avx2_transpose_f32, convt3d__avx2_transpose_f64},
    convt3d__avx2_fence,
    convt3d__avx2_list_list, convt3d__avx2_list_affine
};

#if defined(__clang__)
#  pragma clang attribute pop
#else
#  pragma GCC pop_options
#endif
#endif
