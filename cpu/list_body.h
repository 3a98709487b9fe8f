/* list_body.h - entries of the list on f32 values, for one instruction set. kernel_*.h define LIST(name) and
 * LIST_BYTES, a vector's size (0: single values, for compilers without GNU C's vectors), and include this file inside
 * their target-attribute region; it takes the definitions away again. No include guard.
 *
 * Idea: everything stands on 2^z, z split into an integer and a rest on which a polynomial of degree 5 does. One
 * division takes the place of a reciprocal and its correction: dividers work beside the multipliers, and x/(1 + 2^z)
 * has the right infinities and NaN by itself.
 * Accuracy (docs/numerics.md, section 7, allows 8u of |f| + L|v|; u = 2^-24): the polynomials are within 2^-23.4 of 2^r
 * and 2^-25 of 2^r - 1 and of log(1 + t), relatively; arguments are products v*log2(e), rounded once, which is an
 * argument perturbed by less than 2u. Phi(-|v|) = t*2^(-v^2*log2(e)/2 + p(t)), t = 1/(1 + |v|/sqrt(8)), by the
 * Chebyshev fit of ln(erfc(z)/t) + z^2 of degree 9, is within 2^-20 + 2u*v^2. No cancellation in what is made of them.
 * NaN stays NaN: every select has it on the side that a false comparison takes, and no bits of it become an exponent.
 * kernel_*.h may define LIST_FMA(a, b, c); LIST_LARGER(a, b) and LIST_SMALLER(a, b), which are b where either is NaN;
 * LIST_BELOW(a, b, yes, no), by a < b; and together LIST_FRACTION(z) = z - floor(z), 0 of infinities, and
 * LIST_SCALE(v, z) = v*2^floor(z), with infinities and subnormals.
 * Measured with AVX-512 (Zen 4, 3.7 GHz, ns a value, added to 8 -> 16 channels, k2 s2; with 1/d by approximation, two
 * multiplications for each power and no fused multiply-adds but in the sigmoid before): silu and sigmoid 0.17 (0.27),
 * tanh 0.28 (0.47), gelu 0.53 (1.1), gelu_tanh 0.24 (0.38), elu 0.25 (0.35), softplus 0.43 (0.91), mish 0.26 (0.45),
 * hardswish 0.07 (0.11). SiLU is ten instructions a vector; of its 10 cycles the multipliers work 8.
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
#ifndef LIST_BELOW
#  define LIST_BELOW(a, b, yes, no) LIST(select)((a) < (b), yes, no)
#endif
CONVT3D__CPU_INLINE LIST(f) LIST(max)(LIST(f) v, float low) { return LIST_LARGER(LIST(splat)(low), v); }
CONVT3D__CPU_INLINE LIST(f) LIST(min)(LIST(f) v, float high) { return LIST_SMALLER(LIST(splat)(high), v); }
CONVT3D__CPU_INLINE LIST(f) LIST(fma)(LIST(f) a, LIST(f) b, float c) { return LIST_FMA(a, b, LIST(splat)(c)); }
CONVT3D__CPU_INLINE LIST(f) LIST(abs)(LIST(f) v) { return LIST(of_bits)(LIST(bits_of)(v) & 0x7fffffffu); }
CONVT3D__CPU_INLINE LIST(f) LIST(positive)(LIST(f) v, LIST(f) yes, LIST(f) no)         /* v > 0 ? yes : no */
{
    return LIST_BELOW(LIST(splat)(0), v, yes, no);
}

/* 2^n, n the integer next to z, from -127 (0) to 128 (infinity); *r is the rest of z. */
CONVT3D__CPU_INLINE LIST(f) LIST(power)(LIST(f) z, LIST(f) *r)
{
    const float round = 12582912.0f;                    /* 1.5*2^23: adding it leaves n in the low bits */
    LIST(f) sum;
    z = LIST(min)(LIST(max)(z, -127), 128);
    sum = z + round;
    *r = z - (sum - round);
    return LIST(of_bits)((LIST(bits_of)(sum) << 23) + 0x3f800000u);
}

CONVT3D__CPU_INLINE LIST(f) LIST(exp2)(LIST(f) z)
{
    LIST(f) r, p;
#ifdef LIST_FRACTION
    r = LIST_FRACTION(z);
    p = LIST(fma)(r, LIST(splat)(0.00186713017f), 0.00901702978f);
    p = LIST(fma)(r, LIST(fma)(r, p, 0.0557999127f), 0.240164459f);
    p = LIST(fma)(r, LIST(fma)(r, p, 0.693151295f), 1);
    return LIST_SCALE(p, z);
#else
    LIST(f) scale = LIST(power)(z, &r);
    p = LIST(fma)(r, LIST(splat)(0.00132764722f), 0.00967554133f);
    p = LIST(fma)(r, LIST(fma)(r, p, 0.0555071327f), 0.240221197f);
    p = LIST(fma)(r, LIST(fma)(r, p, 0.693146967f), 1.00000007f);
    return p * scale;
#endif
}

/* 2^z - 1, z <= 0 */
CONVT3D__CPU_INLINE LIST(f) LIST(exp2m1)(LIST(f) z)
{
    LIST(f) r, q, scale = LIST(power)(z, &r);
    q = LIST(fma)(r, LIST(splat)(0.000154035137f), 0.00133907353f);
    q = LIST(fma)(r, LIST(fma)(r, q, 0.00961823761f), 0.0555035733f);
    q = LIST(fma)(r, LIST(fma)(r, q, 0.240226492f), 0.693147182f);
    return LIST_FMA(r * q, scale, scale - 1.0f);
}

/* c + log(1 + t), 0 <= t <= 1: 2*atanh(t/(2 + t)) */
CONVT3D__CPU_INLINE LIST(f) LIST(add_log1p)(LIST(f) c, LIST(f) t)
{
    LIST(f) s = t / (2.0f + t), w = s * s, p;
    p = LIST(fma)(w, LIST(splat)(0.280119866f), 0.280018061f);
    p = LIST(fma)(w, LIST(fma)(w, p, 0.400215268f), 0.666664183f);
    return LIST_FMA(s, LIST(fma)(w, p, 2), c);
}

/* Phi(-|v|), the normal distribution */
CONVT3D__CPU_INLINE LIST(f) LIST(tail)(LIST(f) v)
{
    LIST(f) t = 1.0f / LIST(fma)(LIST(abs)(v), LIST(splat)(0.353553391f), 1), p;
    p = LIST(fma)(t, LIST(splat)(0.246517316f), -1.18611491f);
    p = LIST(fma)(t, LIST(fma)(t, p, 2.14747453f), -1.63775313f);
    p = LIST(fma)(t, LIST(fma)(t, p, 0.402321607f), -0.268756866f);
    p = LIST(fma)(t, LIST(fma)(t, p, 0.139630064f), 0.539700627f);
    p = LIST(fma)(t, LIST(fma)(t, p, 1.44272923f), -2.82574821f);
    return t * LIST(exp2)(LIST_FMA(v * -0.721347520f, v, p));
}

/* v/(1 + 2^z) */
CONVT3D__CPU_INLINE LIST(f) LIST(logistic)(LIST(f) v, LIST(f) z) { return v / (1.0f + LIST(exp2)(z)); }

/* ---- the entries; a and b are theirs ---- */

CONVT3D__CPU_INLINE LIST(f) LIST(clamp)(LIST(f) v, float a, float b) { return LIST(min)(LIST(max)(v, a), b); }
CONVT3D__CPU_INLINE LIST(f) LIST(leaky_relu)(LIST(f) v, float a) { return LIST(positive)(v, v, a * v); }
CONVT3D__CPU_INLINE LIST(f) LIST(silu)(LIST(f) v) { return LIST(logistic)(v, v * -1.44269504f); }
CONVT3D__CPU_INLINE LIST(f) LIST(hardsigmoid)(LIST(f) v) { return LIST(clamp)(v + 3.0f, 0, 6) * (1.0f / 6); }

CONVT3D__CPU_INLINE LIST(f) LIST(sigmoid)(LIST(f) v)
{
    return LIST(logistic)(LIST(splat)(1), v * -1.44269504f);
}

CONVT3D__CPU_INLINE LIST(f) LIST(tanh)(LIST(f) v)       /* the sign comes last */
{
    LIST(f) e = LIST(exp2m1)(-2.88539008f * LIST(abs)(v)), t = e / (-2.0f - e);
    return LIST(of_bits)(LIST(bits_of)(t) | (LIST(bits_of)(v) & 0x80000000u));
}

CONVT3D__CPU_INLINE LIST(f) LIST(gelu)(LIST(f) v)
{
    LIST(f) tail = LIST(tail)(v);
    return v * LIST(positive)(v, 1.0f - tail, tail);
}

CONVT3D__CPU_INLINE LIST(f) LIST(gelu_tanh)(LIST(f) v)  /* v/(1 + exp(-2*sqrt(2/pi)*(v + 0.044715*v^3))) */
{
    return LIST(logistic)(v, v * LIST(fma)(v * v, LIST(splat)(-0.102943241f), -2.30220819f));
}

CONVT3D__CPU_INLINE LIST(f) LIST(elu)(LIST(f) v, float a)
{
    return LIST(positive)(v, v, a * LIST(exp2m1)(LIST(min)(v, 0) * 1.44269504f));
}

CONVT3D__CPU_INLINE LIST(f) LIST(softplus)(LIST(f) v, float a, float b)
{
    LIST(f) z = a * v, s = LIST(add_log1p)(LIST(max)(z, 0), LIST(exp2)(LIST(abs)(z) * -1.44269504f));
    return LIST_BELOW(LIST(splat)(b), z, v, s / a);
}

CONVT3D__CPU_INLINE LIST(f) LIST(mish)(LIST(f) v)       /* v*tanh(log(1 + e)) = v*w/(w + 2), w = e*(e + 2) */
{
    LIST(f) e = LIST(exp2)(LIST(min)(v, 20.0f) * 1.44269504f), w = e * (e + 2.0f);
    return LIST_BELOW(LIST(splat)(20), v, v, v * w / (w + 2.0f));
}

/* `kind` is a constant wherever this is inlined. */
CONVT3D__CPU_INLINE LIST(f) LIST(of)(const int32_t kind, LIST(f) v, float a, float b)
{
    switch (kind) {
    case CONVT3D_OP_AFFINE:      return LIST(fma)(v, LIST(splat)(a), b);
    case CONVT3D_OP_CLAMP:       return LIST(clamp)(v, a, b);
    case CONVT3D_OP_RELU:        return LIST(max)(v, 0);
    case CONVT3D_OP_RELU6:       return LIST(clamp)(v, 0, 6);
    case CONVT3D_OP_LEAKY_RELU:  return LIST(leaky_relu)(v, a);
    case CONVT3D_OP_SILU:        return LIST(silu)(v);
    case CONVT3D_OP_SIGMOID:     return LIST(sigmoid)(v);
    case CONVT3D_OP_TANH:        return LIST(tanh)(v);
    case CONVT3D_OP_GELU:        return LIST(gelu)(v);
    case CONVT3D_OP_GELU_TANH:   return LIST(gelu_tanh)(v);
    case CONVT3D_OP_HARDSWISH:   return v * LIST(hardsigmoid)(v);
    case CONVT3D_OP_HARDSIGMOID: return LIST(hardsigmoid)(v);
    case CONVT3D_OP_ELU:         return LIST(elu)(v, a);
    case CONVT3D_OP_SOFTPLUS:    return LIST(softplus)(v, a, b);
    case CONVT3D_OP_MISH:        return LIST(mish)(v);
    default:                     return v;
    }
}

CONVT3D__CPU_INLINE void LIST(loop)(const int32_t kind, float a, float b, float *values, int64_t n)
{
    const int64_t step = (int64_t)(sizeof(LIST(f)) / sizeof(float));
    int64_t i;
    LIST(f) v;
    for (i = 0; i + step <= n; i += step) {
        memcpy(&v, values + i, sizeof v);
        v = LIST(of)(kind, v, a, b);
        memcpy(values + i, &v, sizeof v);
    }
}

/* One entry on n values. */
static void LIST(list)(int32_t kind, float a, float b, float *values, int64_t n)
{
    const int64_t step = (int64_t)(sizeof(LIST(f)) / sizeof(float));
    float rest[16] = {0};
    int64_t left = n % step;
    if (left > 0) {                                     /* less than a vector */
        memcpy(rest, values + n - left, (size_t)left * sizeof *rest);
        LIST(list)(kind, a, b, rest, step);
        memcpy(values + n - left, rest, (size_t)left * sizeof *rest);
    }
    switch (kind) {
#define LIST_CASE(name) case CONVT3D_OP_##name: LIST(loop)(CONVT3D_OP_##name, a, b, values, n);  break;
    CONVT3D__CPU_FUNCTIONS(LIST_CASE)
#undef LIST_CASE
    default: break;
    }
}

/* values[i] = scale[i]*values[i] + shift[i], with the bits of an affine entry. */
static void LIST(affine)(float *values, const float *scale, const float *shift, int64_t n)
{
    const int64_t step = (int64_t)(sizeof(LIST(f)) / sizeof(float));
    LIST(f) v = LIST(splat)(0), a = v, b = v;
    int64_t i, part;
    for (i = 0; i < n; i += part) {
        part = convt3d__min(step, n - i);
        memcpy(&v, values + i, (size_t)part * sizeof *values);
        memcpy(&a, scale + i, (size_t)part * sizeof *scale);
        memcpy(&b, shift + i, (size_t)part * sizeof *shift);
        v = LIST_FMA(v, a, b);
        memcpy(values + i, &v, (size_t)part * sizeof *values);
    }
}
#undef LIST_FMA
#undef LIST_LARGER
#undef LIST_SMALLER
#undef LIST_BELOW
#undef LIST_FRACTION
#undef LIST_SCALE
#undef LIST_BYTES
#undef LIST
