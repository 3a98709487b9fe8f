/* kernel_portable.h - leaves in plain C, for any processor; the other instruction sets borrow what they do not replace.
 *
 * Idea: kernel_body.h on the compiler's own vectors of 16 bytes (GNU C), elsewhere on single values.
 * Requires: nothing.
 * Tiles (channels x vectors): 1x4, 2x4, 3x3, 4x2, 5x2, 6x1: 16 registers at most, as SSE2 has.
 */
#ifndef CONVT3D_CPU_KERNEL_PORTABLE_H
#define CONVT3D_CPU_KERNEL_PORTABLE_H

#if defined(__GNUC__)
typedef float convt3d__portable_f32 __attribute__((vector_size(16)));
typedef double convt3d__portable_f64 __attribute__((vector_size(16)));
#else
typedef float convt3d__portable_f32;
typedef double convt3d__portable_f64;
#endif

/* ---- vectors ---- */

CONVT3D__CPU_INLINE convt3d__portable_f32 convt3d__portable_load_f32(const float *from)
{
    convt3d__portable_f32 v;
    memcpy(&v, from, sizeof v);
    return v;
}

CONVT3D__CPU_INLINE convt3d__portable_f64 convt3d__portable_load_f64(const double *from)
{
    convt3d__portable_f64 v;
    memcpy(&v, from, sizeof v);
    return v;
}

CONVT3D__CPU_INLINE void convt3d__portable_store_f32(float *to, convt3d__portable_f32 v) { memcpy(to, &v, sizeof v); }
CONVT3D__CPU_INLINE void convt3d__portable_store_f64(double *to, convt3d__portable_f64 v) { memcpy(to, &v, sizeof v); }

CONVT3D__CPU_INLINE convt3d__portable_f32 convt3d__portable_splat_f32(const float *from)
{
    float s;
    memcpy(&s, from, sizeof s);
#if defined(__GNUC__)
    {
        convt3d__portable_f32 v = {s, s, s, s};
        return v;
    }
#else
    return s;
#endif
}

CONVT3D__CPU_INLINE convt3d__portable_f64 convt3d__portable_splat_f64(const double *from)
{
    double s;
    memcpy(&s, from, sizeof s);
#if defined(__GNUC__)
    {
        convt3d__portable_f64 v = {s, s};
        return v;
    }
#else
    return s;
#endif
}

CONVT3D__CPU_INLINE convt3d__portable_f32 convt3d__portable_evens_f32(convt3d__portable_f32 a, convt3d__portable_f32 b)
{
    const int lanes = (int)(sizeof a / sizeof(float));
    float from[8], to[4];
    int i;
    memcpy(from, &a, sizeof a);
    memcpy(from + lanes, &b, sizeof b);
    for (i = 0; i < lanes; i++) to[i] = from[2 * i];
    memcpy(&a, to, sizeof a);
    return a;
}

CONVT3D__CPU_INLINE void convt3d__portable_zip_f32(convt3d__portable_f32 *low, convt3d__portable_f32 *high,
                                                    convt3d__portable_f32 a, convt3d__portable_f32 b)
{
    const int lanes = (int)(sizeof a / sizeof(float));
    float from[8], to[8];
    int i;
    memcpy(from, &a, sizeof a);
    memcpy(from + lanes, &b, sizeof b);
    for (i = 0; i < lanes; i++) {
        to[2 * i] = from[i];
        to[2 * i + 1] = from[lanes + i];
    }
    memcpy(low, to, sizeof a);
    memcpy(high, to + lanes, sizeof a);
}

CONVT3D__CPU_INLINE convt3d__portable_f64 convt3d__portable_evens_f64(convt3d__portable_f64 a, convt3d__portable_f64 b)
{
    const int lanes = (int)(sizeof a / sizeof(double));
    double from[8], to[4];
    int i;
    memcpy(from, &a, sizeof a);
    memcpy(from + lanes, &b, sizeof b);
    for (i = 0; i < lanes; i++) to[i] = from[2 * i];
    memcpy(&a, to, sizeof a);
    return a;
}

CONVT3D__CPU_INLINE void convt3d__portable_zip_f64(convt3d__portable_f64 *low, convt3d__portable_f64 *high,
                                                    convt3d__portable_f64 a, convt3d__portable_f64 b)
{
    const int lanes = (int)(sizeof a / sizeof(double));
    double from[4], to[4];
    int i;
    memcpy(from, &a, sizeof a);
    memcpy(from + lanes, &b, sizeof b);
    for (i = 0; i < lanes; i++) {
        to[2 * i] = from[i];
        to[2 * i + 1] = from[lanes + i];
    }
    memcpy(low, to, sizeof a);
    memcpy(high, to + lanes, sizeof a);
}

#define LEAF(name) convt3d__portable_f32_##name
#define LEAF_REAL float
#define LEAF_VECTOR convt3d__portable_f32
#define LEAF_LANES ((int)(sizeof(convt3d__portable_f32) / sizeof(float)))
#define LEAF_LOAD convt3d__portable_load_f32
#define LEAF_STORE convt3d__portable_store_f32
#define LEAF_STREAM convt3d__portable_store_f32
#define LEAF_SPLAT convt3d__portable_splat_f32
#define LEAF_FMA(a, b, c) ((a) * (b) + (c))
#define LEAF_ADD(a, b) ((a) + (b))
#define LEAF_ZIP(low, high, a, b) convt3d__portable_zip_f32(&(low), &(high), a, b)
#define LEAF_EVENS convt3d__portable_evens_f32
#define LEAF_KEEP(v) ((void)(v))
#define LEAF_COLUMNS_1 4
#define LEAF_COLUMNS_2 4
#define LEAF_COLUMNS_3 3
#define LEAF_COLUMNS_4 2
#define LEAF_COLUMNS_5 2
#define LEAF_COLUMNS_6 1
#define LEAF_COLUMNS_8 0
#define LEAF_STACK_COLUMNS 2
#define LEAF_POSITIONS 4
#define LEAF_PANEL_POSITIONS 4
#include "kernel_body.h"

#define LEAF(name) convt3d__portable_f64_##name
#define LEAF_REAL double
#define LEAF_VECTOR convt3d__portable_f64
#define LEAF_LANES ((int)(sizeof(convt3d__portable_f64) / sizeof(double)))
#define LEAF_LOAD convt3d__portable_load_f64
#define LEAF_STORE convt3d__portable_store_f64
#define LEAF_STREAM convt3d__portable_store_f64
#define LEAF_SPLAT convt3d__portable_splat_f64
#define LEAF_FMA(a, b, c) ((a) * (b) + (c))
#define LEAF_ADD(a, b) ((a) + (b))
#define LEAF_ZIP(low, high, a, b) convt3d__portable_zip_f64(&(low), &(high), a, b)
#define LEAF_EVENS convt3d__portable_evens_f64
#define LEAF_KEEP(v) ((void)(v))
#define LEAF_COLUMNS_1 4
#define LEAF_COLUMNS_2 4
#define LEAF_COLUMNS_3 3
#define LEAF_COLUMNS_4 2
#define LEAF_COLUMNS_5 2
#define LEAF_COLUMNS_6 1
#define LEAF_COLUMNS_8 0
#define LEAF_STACK_COLUMNS 2
#define LEAF_POSITIONS 4
#define LEAF_PANEL_POSITIONS 4
#include "kernel_body.h"

/* ---- 16-bit types: by bits and exact f32 arithmetic, so that subnormals need no case of their own ---- */

CONVT3D__CPU_INLINE float convt3d__cpu_float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

CONVT3D__CPU_INLINE uint32_t convt3d__cpu_bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Normal numbers: the exponent moved and scaled by 2^-112, which also makes 31 infinity or NaN. Subnormals: the
 * mantissa behind an implicit one of value 0.5, which is taken off again. */
CONVT3D__CPU_INLINE float convt3d__cpu_f32_of_f16(uint16_t half)
{
    uint32_t word = (uint32_t)half << 16, twice = word + word;
    float normal = convt3d__cpu_float_of_bits((twice >> 4) + (UINT32_C(0xe0) << 23)) *
                   convt3d__cpu_float_of_bits(UINT32_C(0x07800000));                    /* 2^-112 */
    float subnormal = convt3d__cpu_float_of_bits((twice >> 17) | UINT32_C(126) << 23) - 0.5f;
    uint32_t magnitude = convt3d__cpu_bits_of_float(twice < UINT32_C(1) << 27 ? subnormal : normal);
    return convt3d__cpu_float_of_bits((word & UINT32_C(0x80000000)) | magnitude);
}

/* To nearest, ties to even: the sum with a power of two whose last bit is f16's rounds; the first product overflows. */
CONVT3D__CPU_INLINE uint16_t convt3d__cpu_f16_of_f32(float value)
{
    uint32_t word = convt3d__cpu_bits_of_float(value), twice = word + word, sign = word >> 16 & 0x8000u;
    uint32_t bias = twice & UINT32_C(0xff000000), bits;
    float base = convt3d__cpu_float_of_bits(word & UINT32_C(0x7fffffff));
    base *= convt3d__cpu_float_of_bits(UINT32_C(0x77800000));
    base *= convt3d__cpu_float_of_bits(UINT32_C(0x08800000));                           /* 2^112, then 2^-110 */
    if (bias < UINT32_C(0x71000000)) bias = UINT32_C(0x71000000);
    bits = convt3d__cpu_bits_of_float(convt3d__cpu_float_of_bits((bias >> 1) + UINT32_C(0x07800000)) + base);
    bits = (bits >> 13 & 0x7c00u) + (bits & 0x0fffu);
    return (uint16_t)(sign | (twice > UINT32_C(0xff000000) ? 0x7e00u : bits));
}

CONVT3D__CPU_INLINE uint16_t convt3d__cpu_bf16_of_f32(float value)
{
    uint32_t word = convt3d__cpu_bits_of_float(value);
    if ((word & UINT32_C(0x7fffffff)) > UINT32_C(0x7f800000)) return (uint16_t)(word >> 16 | 0x40u);   /* a quiet NaN */
    return (uint16_t)((word + 0x7fffu + (word >> 16 & 1)) >> 16);
}

static void convt3d__portable_widen_f16(float *to, const uint16_t *from, int64_t n)
{
    int64_t i;
    for (i = 0; i < n; i++) to[i] = convt3d__cpu_f32_of_f16(from[i]);
}

static void convt3d__portable_widen_bf16(float *to, const uint16_t *from, int64_t n)
{
    int64_t i;
    for (i = 0; i < n; i++) to[i] = convt3d__cpu_float_of_bits((uint32_t)from[i] << 16);
}

static void convt3d__portable_narrow_f16(uint16_t *to, const float *from, int64_t n)
{
    int64_t i;
    for (i = 0; i < n; i++) to[i] = convt3d__cpu_f16_of_f32(from[i]);
}

static void convt3d__portable_narrow_bf16(uint16_t *to, const float *from, int64_t n)
{
    int64_t i;
    for (i = 0; i < n; i++) to[i] = convt3d__cpu_bf16_of_f32(from[i]);
}

/* ---- the rest ---- */

static void convt3d__portable_transpose_f32(void *to, int64_t to_pitch, const void *from, int64_t from_pitch,
                                           int64_t rows, int64_t columns)
{
    int64_t r, c;
    for (c = 0; c < columns; c++)
        for (r = 0; r < rows; r++) ((float *)to)[c * to_pitch + r] = ((const float *)from)[r * from_pitch + c];
}

static void convt3d__portable_transpose_f64(void *to, int64_t to_pitch, const void *from, int64_t from_pitch,
                                           int64_t rows, int64_t columns)
{
    int64_t r, c;
    for (c = 0; c < columns; c++)
        for (r = 0; r < rows; r++) ((double *)to)[c * to_pitch + r] = ((const double *)from)[r * from_pitch + c];
}

static void convt3d__portable_fence(void) { }

/* The entries of a list that are functions of one value. */
#define CONVT3D__CPU_FUNCTIONS(X) \
    X(AFFINE) X(CLAMP) X(RELU) X(RELU6) X(LEAKY_RELU) X(SILU) X(SIGMOID) X(TANH) X(GELU) X(GELU_TANH) X(HARDSWISH) \
    X(HARDSIGMOID) X(ELU) X(SOFTPLUS) X(MISH)

#define LIST(name) convt3d__portable_list_##name
#if defined(__GNUC__)
#  define LIST_BYTES 16
#else
#  define LIST_BYTES 0
#endif
#include "list_body.h"

static const convt3d__cpu_leaves convt3d__portable_leaves = {
    {{NULL, convt3d__portable_f32_line1, convt3d__portable_f32_line2, convt3d__portable_f32_line3,
      convt3d__portable_f32_line4, convt3d__portable_f32_line5, convt3d__portable_f32_line6, NULL, NULL},
     {NULL, convt3d__portable_f64_line1, convt3d__portable_f64_line2, convt3d__portable_f64_line3,
      convt3d__portable_f64_line4, convt3d__portable_f64_line5, convt3d__portable_f64_line6, NULL, NULL}},
    {convt3d__portable_f32_stack, convt3d__portable_f64_stack},
    {{convt3d__portable_f32_panel1, convt3d__portable_f32_panel2},
     {convt3d__portable_f64_panel1, convt3d__portable_f64_panel2}},
    {(int32_t)(sizeof(convt3d__portable_f32) / sizeof(float)),
     (int32_t)(sizeof(convt3d__portable_f64) / sizeof(double))},
    {convt3d__portable_f32_outer, convt3d__portable_f64_outer},
    4,
    {convt3d__portable_f32_total, convt3d__portable_f64_total},
    {convt3d__portable_f32_add, convt3d__portable_f64_add},
    {convt3d__portable_f32_evens, convt3d__portable_f64_evens},
    {convt3d__portable_f32_weave, convt3d__portable_f64_weave},
    {NULL, NULL},
    {convt3d__portable_widen_f16, convt3d__portable_widen_bf16},
    {convt3d__portable_narrow_f16, convt3d__portable_narrow_bf16},
    {convt3d__portable_transpose_f32, convt3d__portable_transpose_f64},
    convt3d__portable_fence,
    convt3d__portable_list_list, convt3d__portable_list_affine
};
#endif
