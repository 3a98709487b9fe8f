// The phase algebra of convt3d.h (convt3d__axis, convt3d__taps_of) in the index type I that a kernel works in: int32_t
// wherever the problem fits, since 64-bit division costs a hundred instructions, int64_t for the rest.
#pragma once

namespace convt3d_cuda {

template <class I> struct Axis {
    I in, out, kernel, stride, padding, dilation, gcd, tap_step, in_step, inverse;
};

template <class I> struct Taps { I k, i, count; };      // as convt3d__taps, for one output

template <class I> Axis<I> axis_of(const convt3d__axis &a)
{
    return {(I)a.in, (I)a.out, (I)a.kernel, (I)a.stride, (I)a.padding, (I)a.dilation, (I)a.gcd, (I)a.tap_step,
            (I)a.in_step, (I)a.inverse};
}

// Whether every index that taps_of meets on the three axes, and the number of outputs of one channel, fit int32_t.
static inline bool fits_32_bits(const convt3d__plan *p)
{
    const int64_t most = INT32_MAX / 2;
    int64_t positions = p->desc.batch;
    for (int a = 0; a < 3; a++) {
        const convt3d__axis &x = p->axis[a];
        int64_t padding = x.padding < 0 ? -x.padding : x.padding;
        if (x.in > most || x.out > most || padding > most || x.stride > most || x.dilation > most || x.kernel > most)
            return false;
        if (x.out + padding + x.stride > most || (x.kernel - 1) * x.dilation > most) return false;
        if (positions > 0 && x.out > most / positions) return false;
        positions *= x.out;
    }
    return true;
}

static __device__ __forceinline__ int32_t mul_mod(int32_t a, int32_t b, int32_t m)
{
    return (int32_t)((int64_t)a * b % m);
}

static __device__ __forceinline__ int64_t mul_mod(int64_t a, int64_t b, int64_t m)
{
    int64_t product = 0;
    if (m <= INT32_MAX) return a * b % m;
    for (; b > 0; b >>= 1) {
        if (b & 1) product = product >= m - a ? product - (m - a) : product + a;
        a = a >= m - a ? a - (m - a) : a + a;
    }
    return product;
}

// The taps that reach output o, and the input of the first.
template <class I> __device__ __forceinline__ Taps<I> taps_of(const Axis<I> &axis, I o)
{
    Taps<I> none = {0, 0, 0};
    I position = o + axis.padding, residue = position % axis.stride;
    if (residue < 0) residue += axis.stride;
    if (axis.gcd > 1) {
        if (residue % axis.gcd != 0) return none;
        residue /= axis.gcd;
    }
    I k = axis.tap_step > 1 ? mul_mod(residue, axis.inverse, axis.tap_step) : 0;
    if (k >= axis.kernel) return none;
    I i = (position - k * axis.dilation) / axis.stride;     // exact
    if (i < 0) return none;
    I first = i < axis.in ? 0 : (i - axis.in) / axis.in_step + 1;
    I last = (axis.kernel - 1 - k) / axis.tap_step;
    if (i / axis.in_step < last) last = i / axis.in_step;
    if (first > last) return none;
    return {(I)(k + first * axis.tap_step), (I)(i - first * axis.in_step), (I)(last - first + 1)};
}

}
