/* kernel_neon.h - leaves for AArch64, whose NEON (with multiply-add and f16 conversion) every such processor has.
 *
 * Idea: kernel_body.h on vectors of 4 f32 or 2 f64 and 32 registers.
 * Requires: AArch64.
 * Tiles (channels x vectors): 1x8, 2x8, 3x6, 4x5, 5x4, 6x4. Not measured yet: tested under an emulator only.
 */
#ifndef CONVT3D_CPU_KERNEL_NEON_H
#define CONVT3D_CPU_KERNEL_NEON_H

CONVT3D__CPU_INLINE float32x4_t convt3d__neon_fma_f32(float32x4_t a, float32x4_t b, float32x4_t c)
{
    return vfmaq_f32(c, a, b);
}

CONVT3D__CPU_INLINE void convt3d__neon_zip_f32(float32x4_t *low, float32x4_t *high, float32x4_t a, float32x4_t b)
{
    *low = vzip1q_f32(a, b);
    *high = vzip2q_f32(a, b);
}

#define LEAF(name) convt3d__neon_f32_##name
#define LEAF_REAL float
#define LEAF_VECTOR float32x4_t
#define LEAF_LANES 4
#define LEAF_LOAD vld1q_f32
#define LEAF_STORE vst1q_f32
#define LEAF_STREAM vst1q_f32
#define LEAF_SPLAT vld1q_dup_f32
#define LEAF_FMA convt3d__neon_fma_f32
#define LEAF_ADD vaddq_f32
#define LEAF_ZIP(low, high, a, b) convt3d__neon_zip_f32(&(low), &(high), a, b)
#define LEAF_EVENS vuzp1q_f32
#define LEAF_KEEP(v) ((void)(v))
#define LEAF_COLUMNS_1 8
#define LEAF_COLUMNS_2 8
#define LEAF_COLUMNS_3 6
#define LEAF_COLUMNS_4 5
#define LEAF_COLUMNS_5 4
#define LEAF_COLUMNS_6 4
#define LEAF_COLUMNS_8 0
#define LEAF_STACK_COLUMNS 4
#define LEAF_POSITIONS 8
#define LEAF_PANEL_POSITIONS 8
#include "kernel_body.h"

CONVT3D__CPU_INLINE float64x2_t convt3d__neon_fma_f64(float64x2_t a, float64x2_t b, float64x2_t c)
{
    return vfmaq_f64(c, a, b);
}

CONVT3D__CPU_INLINE void convt3d__neon_zip_f64(float64x2_t *low, float64x2_t *high, float64x2_t a, float64x2_t b)
{
    *low = vzip1q_f64(a, b);
    *high = vzip2q_f64(a, b);
}

#define LEAF(name) convt3d__neon_f64_##name
#define LEAF_REAL double
#define LEAF_VECTOR float64x2_t
#define LEAF_LANES 2
#define LEAF_LOAD vld1q_f64
#define LEAF_STORE vst1q_f64
#define LEAF_STREAM vst1q_f64
#define LEAF_SPLAT vld1q_dup_f64
#define LEAF_FMA convt3d__neon_fma_f64
#define LEAF_ADD vaddq_f64
#define LEAF_ZIP(low, high, a, b) convt3d__neon_zip_f64(&(low), &(high), a, b)
#define LEAF_EVENS vuzp1q_f64
#define LEAF_KEEP(v) ((void)(v))
#define LEAF_COLUMNS_1 8
#define LEAF_COLUMNS_2 8
#define LEAF_COLUMNS_3 6
#define LEAF_COLUMNS_4 5
#define LEAF_COLUMNS_5 4
#define LEAF_COLUMNS_6 4
#define LEAF_COLUMNS_8 0
#define LEAF_STACK_COLUMNS 4
#define LEAF_POSITIONS 8
#define LEAF_PANEL_POSITIONS 8
#include "kernel_body.h"

static void convt3d__neon_widen_f16(float *to, const uint16_t *from, int64_t n)
{
    int64_t i;
    for (i = 0; i + 4 <= n; i += 4) vst1q_f32(to + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + i))));
    for (; i < n; i++) to[i] = convt3d__cpu_f32_of_f16(from[i]);
}

static void convt3d__neon_narrow_f16(uint16_t *to, const float *from, int64_t n)
{
    int64_t i;
    for (i = 0; i + 4 <= n; i += 4) vst1_u16(to + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(from + i))));
    for (; i < n; i++) to[i] = convt3d__cpu_f16_of_f32(from[i]);
}

#define LIST(name) convt3d__neon_list_##name
#define LIST_BYTES 16
#define LIST_FMA convt3d__neon_fma_f32
#include "list_body.h"

static const convt3d__cpu_leaves convt3d__neon_leaves = {
    {{NULL, convt3d__neon_f32_line1, convt3d__neon_f32_line2, convt3d__neon_f32_line3, convt3d__neon_f32_line4,
      convt3d__neon_f32_line5, convt3d__neon_f32_line6, NULL, NULL},
     {NULL, convt3d__neon_f64_line1, convt3d__neon_f64_line2, convt3d__neon_f64_line3, convt3d__neon_f64_line4,
      convt3d__neon_f64_line5, convt3d__neon_f64_line6, NULL, NULL}},
    {convt3d__neon_f32_stack, convt3d__neon_f64_stack},
    {{convt3d__neon_f32_panel1, convt3d__neon_f32_panel2}, {convt3d__neon_f64_panel1, convt3d__neon_f64_panel2}},
    {4, 2},
    {convt3d__neon_f32_outer, convt3d__neon_f64_outer},
    8,
    {convt3d__neon_f32_total, convt3d__neon_f64_total},
    {convt3d__neon_f32_add, convt3d__neon_f64_add},
    {convt3d__neon_f32_evens, convt3d__neon_f64_evens},
    {convt3d__neon_f32_weave, convt3d__neon_f64_weave},
    {NULL, NULL},
    {convt3d__neon_widen_f16, convt3d__portable_widen_bf16},
    {convt3d__neon_narrow_f16, convt3d__portable_narrow_bf16},
    {convt3d__portable_transpose_f32, convt3d__portable_transpose_f64},
    convt3d__portable_fence,
    convt3d__neon_list_list, convt3d__neon_list_affine
};
#endif
