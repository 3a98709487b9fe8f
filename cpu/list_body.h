/* list_body.h - entries of the list on f32 values, for one instruction set. kernel_*.h define LIST(name) and
 * LIST_BYTES, a vector's size (0: single values, for compilers without GNU C's vectors), and include this file inside
 * their target-attribute region; it takes the definitions away again. No include guard.
 *
 * Idea: everything stands on e^x - 1 = 2^n*q + (2^n - 1), q a polynomial on |r| <= ln(2)/2.
 * Accuracy: expm1, exp and log1p within 2 units of the last place, erfc within 2^-23 relatively (Chebyshev fit of
 * ln(erfc(z)/t) + z^2 in t = 1/(1 + z/2), degree 9); no cancellation in what is made of them.
 * NaN stays NaN: every select has it on the side that a false comparison takes.
 * kernel_*.h may define LIST_FMA(a, b, c); LIST_LARGER(a, b) and LIST_SMALLER(a, b), which are b where either is NaN;
 * and together LIST_SCALE(v, n) = v*2^n, with infinities and subnormals, and LIST_RECIPROCAL(v) to 14 bits. Then the
 * sigmoid s is 1/(1 + 2^z) with z = -v*log2(e) rounded once: that moves s by s(1 - s)|v| < 0.23 roundings, polynomial
 * and reciprocal by 2^-24 each at most, where docs/numerics.md, section 7, allows 8 * 2^-24 of |v|/4 and s.
 * Measured with AVX-512 (Zen 4, tiles of woven rows): silu 0.27 ns a value, 0.6 before. With AVX2 on one core of an
 * EPYC (Zen 3, under load, without LIST_FMA): arithmetic entries 0.05 to 0.1, hardswish 0.17, silu, sigmoid and tanh
 * 0.6 to 0.8, gelu_tanh 1.0, elu and gelu 1.7, softplus 2.2, mish 2.6.
 */

#if LIST_BYTES > 0
typedef float LIST(f) __attribute__((vector_size(LIST_BYTES)));
typedef int32_t LIST(i) __attribute__((vector_size(LIST_BYTES)));
typedef uint32_t LIST(u) __attribute__((vector_size(LIST_BYTES)));
CONVT3D__CPU_INLINE LIST(f) LIST(select)(LIST(i) mask, LIST(f) yes, LIST(f) no)
{
    return (LIST(f))((mask & (LIST(i))yes) | (~mask & (LIST(i))no));
}
CONVT3D__CPU_INLINE LIST(f) LIST(of_bits)(LIST(u) bits) { return (LIST(f))bits; }
CONVT3D__CPU_INLINE LIST(u) LIST(bits_of)(LIST(f) v) { return (LIST(u))v; }
#else
typedef float LIST(f);
typedef int32_t LIST(i);
typedef uint32_t LIST(u);
CONVT3D__CPU_INLINE float LIST(select)(int32_t mask, float yes, float no) { return mask ? yes : no; }
CONVT3D__CPU_INLINE float LIST(of_bits)(uint32_t bits) { float v;  memcpy(&v, &bits, sizeof v);  return v; }
CONVT3D__CPU_INLINE uint32_t LIST(bits_of)(float v) { uint32_t bits;  memcpy(&bits, &v, sizeof v);  return bits; }
#endif

CONVT3D__CPU_INLINE LIST(f) LIST(splat)(float v) { LIST(f) zero;  memset(&zero, 0, sizeof zero);  return zero + v; }
#ifndef LIST_FMA
#  define LIST_FMA(a, b, c) ((a) * (b) + (c))
#endif
#ifndef LIST_LARGER
#  define LIST_LARGER(a, b) LIST(select)((b) < (a), a, b)
#  define LIST_SMALLER(a, b) LIST(select)((b) > (a), a, b)
#endif
CONVT3D__CPU_INLINE LIST(f) LIST(max)(LIST(f) v, float low) { return LIST_LARGER(LIST(splat)(low), v); }
CONVT3D__CPU_INLINE LIST(f) LIST(min)(LIST(f) v, float high) { return LIST_SMALLER(LIST(splat)(high), v); }
CONVT3D__CPU_INLINE LIST(f) LIST(fma)(LIST(f) a, LIST(f) b, float c) { return LIST_FMA(a, b, LIST(splat)(c)); }
CONVT3D__CPU_INLINE LIST(f) LIST(abs)(LIST(f) v) { return LIST(of_bits)(LIST(bits_of)(v) & 0x7fffffffu); }

/* q of e^x = 2^n*q + 2^n; *half and *rest multiply to 2^n, whose exponent alone may not fit. */
CONVT3D__CPU_INLINE LIST(f) LIST(exp_parts)(LIST(f) x, LIST(f) *half, LIST(f) *rest)
{
    const float round = 12582912.0f;                    /* 1.5*2^23: adding it leaves the nearest integer */
    LIST(f) z, n, r, q;
    LIST(u) bits, low;
    x = LIST(min)(LIST(max)(x, -104.0f), 89.0f);
    z = LIST(fma)(x, LIST(splat)(1.44269504f), round);
    n = z - round;
    r = LIST_FMA(n, LIST(splat)(-0.693145752f), x);     /* ln(2) in two parts, the first short */
    r = LIST_FMA(n, LIST(splat)(-1.42860677e-6f), r);
    q = LIST(fma)(r, LIST(splat)(1.0f / 5040), 1.0f / 720);
    q = LIST(fma)(r, LIST(fma)(r, q, 1.0f / 120), 1.0f / 24);
    q = LIST(fma)(r, LIST(fma)(r, q, 1.0f / 6), 0.5f);
    q = LIST_FMA(r * r, q, r);
    bits = LIST(bits_of)(z) - 0x4B400000u + 256u;       /* n + 256 */
    low = bits >> 1;
    *half = LIST(of_bits)((low - 1u) << 23);            /* 2^(low - 128) */
    *rest = LIST(of_bits)((bits - low - 1u) << 23);
    return q;
}

CONVT3D__CPU_INLINE LIST(f) LIST(exp)(LIST(f) x)
{
    LIST(f) half, rest, q = LIST(exp_parts)(x, &half, &rest);
    return (1.0f + q) * half * rest;
}

CONVT3D__CPU_INLINE LIST(f) LIST(expm1)(LIST(f) x)      /* x <= 0 */
{
    LIST(f) half, rest, q = LIST(exp_parts)(x, &half, &rest), s = half * rest;
    return q * s + (s - 1.0f);
}

CONVT3D__CPU_INLINE LIST(f) LIST(log1p)(LIST(f) t)      /* 0 <= t <= 1: 2*atanh(t/(2 + t)) */
{
    LIST(f) s = t / (2.0f + t), w = s * s, p;
    p = 1.0f / 11 + w * (1.0f / 13 + w * (1.0f / 15));
    p = 1.0f / 5 + w * (1.0f / 7 + w * (1.0f / 9 + w * p));
    p = 1.0f + w * (1.0f / 3 + w * p);
    return 2.0f * s * p;
}

CONVT3D__CPU_INLINE LIST(f) LIST(erfc)(LIST(f) v)
{
    LIST(f) z = LIST(abs)(v), t = 1.0f / (1.0f + 0.5f * z), p, e;
    p = 1.488515889f + t * (-0.8221522344f + t * 0.1708727777f);
    p = -0.1862880617f + t * (0.2788680845f + t * (-1.135204f + t * p));
    p = 1.00002368f + t * (0.3740919597f + t * (0.09678418949f + t * p));
    e = t * LIST(exp)(-z * z + (-1.265512225f + t * p));
    return LIST(select)(v < 0.0f, 2.0f - e, e);
}

#ifdef LIST_SCALE
CONVT3D__CPU_INLINE LIST(f) LIST(logistic)(LIST(f) x)   /* 1/(1 + e^-x) */
{
    const float round = 12582912.0f;
    LIST(f) z = LIST(min)(LIST(max)(x * -1.44269504f, -150.0f), 150.0f), n = (z + round) - round, r = z - n, p, d;
    p = LIST(fma)(r, LIST(splat)(0.00132764722f), 0.00967554133f);      /* 2^r within 2^-23.6 of itself */
    p = LIST(fma)(r, LIST(fma)(r, p, 0.0555071327f), 0.240221197f);
    p = LIST(fma)(r, LIST(fma)(r, p, 0.693146967f), 1.00000007f);
    d = 1.0f + LIST_SCALE(p, n);
    r = LIST_RECIPROCAL(d);
    return LIST_FMA(r, LIST(fma)(-LIST(min)(d, 0x1p126f), r, 1), r);    /* 0 where d is infinite */
}
#else
CONVT3D__CPU_INLINE LIST(f) LIST(logistic)(LIST(f) x) { return 1.0f / (1.0f + LIST(exp)(-x)); }
#endif

/* ---- the entries; a and b are theirs ---- */

CONVT3D__CPU_INLINE LIST(f) LIST(clamp)(LIST(f) v, float a, float b) { return LIST(min)(LIST(max)(v, a), b); }
CONVT3D__CPU_INLINE LIST(f) LIST(leaky_relu)(LIST(f) v, float a) { return LIST(select)(v > 0.0f, v, a * v); }
CONVT3D__CPU_INLINE LIST(f) LIST(silu)(LIST(f) v) { return v * LIST(logistic)(v); }
CONVT3D__CPU_INLINE LIST(f) LIST(gelu)(LIST(f) v) { return 0.5f * v * LIST(erfc)(-0.70710678f * v); }
CONVT3D__CPU_INLINE LIST(f) LIST(hardsigmoid)(LIST(f) v) { return LIST(clamp)(v + 3.0f, 0, 6) / 6.0f; }

CONVT3D__CPU_INLINE LIST(f) LIST(tanh)(LIST(f) v)
{
    LIST(f) e = LIST(expm1)(-2.0f * LIST(abs)(v)), t = -e / (2.0f + e);
    return LIST(select)(v < 0.0f, -t, t);
}

CONVT3D__CPU_INLINE LIST(f) LIST(gelu_tanh)(LIST(f) v)
{
    return v * LIST(logistic)(1.5957691216f * (v + 0.044715f * v * v * v));
}

CONVT3D__CPU_INLINE LIST(f) LIST(elu)(LIST(f) v, float a)
{
    return LIST(select)(v > 0.0f, v, a * LIST(expm1)(LIST(min)(v, 0)));
}

CONVT3D__CPU_INLINE LIST(f) LIST(softplus)(LIST(f) v, float a, float b)
{
    LIST(f) z = a * v, s = LIST(max)(z, 0) + LIST(log1p)(LIST(exp)(-LIST(abs)(z)));
    return LIST(select)(z > b, v, s / a);
}

CONVT3D__CPU_INLINE LIST(f) LIST(mish)(LIST(f) v)       /* v*tanh(log(1 + e)) = v*w/(w + 2), w = e*(e + 2) */
{
    LIST(f) e = LIST(exp)(LIST(min)(v, 20.0f)), w = e * (e + 2.0f);
    return LIST(select)(v > 20.0f, v, v * w / (w + 2.0f));
}

/* One entry on n values. */
#define LIST_LOOP(expression) \
    for (i = 0; i + step <= n; i += step) { \
        memcpy(&v, values + i, sizeof v); \
        v = (expression); \
        memcpy(values + i, &v, sizeof v); \
    } \
    break
static void LIST(list)(int32_t kind, float a, float b, float *values, int64_t n)
{
    const int64_t step = (int64_t)(sizeof(LIST(f)) / sizeof(float));
    float rest[16] = {0};
    int64_t i, left = n % step;
    LIST(f) v;
    if (left > 0) {                                     /* less than a vector */
        memcpy(rest, values + n - left, (size_t)left * sizeof *rest);
        LIST(list)(kind, a, b, rest, step);
        memcpy(values + n - left, rest, (size_t)left * sizeof *rest);
    }
    switch (kind) {
    case CONVT3D_OP_AFFINE:      LIST_LOOP(a * v + b);
    case CONVT3D_OP_CLAMP:       LIST_LOOP(LIST(clamp)(v, a, b));
    case CONVT3D_OP_RELU:        LIST_LOOP(LIST(max)(v, 0));
    case CONVT3D_OP_RELU6:       LIST_LOOP(LIST(clamp)(v, 0, 6));
    case CONVT3D_OP_LEAKY_RELU:  LIST_LOOP(LIST(leaky_relu)(v, a));
    case CONVT3D_OP_SILU:        LIST_LOOP(LIST(silu)(v));
    case CONVT3D_OP_SIGMOID:     LIST_LOOP(LIST(logistic)(v));
    case CONVT3D_OP_TANH:        LIST_LOOP(LIST(tanh)(v));
    case CONVT3D_OP_GELU:        LIST_LOOP(LIST(gelu)(v));
    case CONVT3D_OP_GELU_TANH:   LIST_LOOP(LIST(gelu_tanh)(v));
    case CONVT3D_OP_HARDSWISH:   LIST_LOOP(v * LIST(hardsigmoid)(v));
    case CONVT3D_OP_HARDSIGMOID: LIST_LOOP(LIST(hardsigmoid)(v));
    case CONVT3D_OP_ELU:         LIST_LOOP(LIST(elu)(v, a));
    case CONVT3D_OP_SOFTPLUS:    LIST_LOOP(LIST(softplus)(v, a, b));
    case CONVT3D_OP_MISH:        LIST_LOOP(LIST(mish)(v));
    default: break;
    }
}
#undef LIST_LOOP
#undef LIST_FMA
#undef LIST_LARGER
#undef LIST_SMALLER
#undef LIST_SCALE
#undef LIST_RECIPROCAL
#undef LIST_BYTES
#undef LIST
