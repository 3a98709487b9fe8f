// Matrix instructions of sm_80 and later (mma.sync, ldmatrix), barriers in shared memory, and the split of f32 into
// halves.
//
// One block of a product is 16 rows x 16 columns x 16 deep, two mma.sync. Either operand may be the one whose rows
// become the rows of the accumulator: a 16 x 16 fragment of A is {rows 0-7, rows 8-15} x {k 0-7, k 8-15}, and those
// four registers taken in another order are two fragments of B.
#pragma once

namespace convt3d_cuda {

// c += a * b, 16 x 8 x 16
struct MmaHalf {
    static __device__ __forceinline__ void add(float *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                               uint32_t b0, uint32_t b1)
    {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }
};

struct MmaBfloat {
    static __device__ __forceinline__ void add(float *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                               uint32_t b0, uint32_t b1)
    {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }
};

// Four 8 x 8 matrices of halves; lane l gives the address of row l % 8 of matrix l / 8.
static __device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

static __device__ __forceinline__ uint32_t shared_address(const void *pointer)
{
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

static __device__ __forceinline__ void mbarrier_init(uint32_t barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" :: "r"(barrier), "r"(arrivals) : "memory");
}

static __device__ __forceinline__ void mbarrier_arrive(uint32_t barrier)
{
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" :: "r"(barrier) : "memory");
}

static __device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("{ .reg .pred p; AGAIN_%=: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @!p bra AGAIN_%=; }"
                 :: "r"(barrier), "r"(parity) : "memory");
#else
    uint32_t done;
    do {
        asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
    } while (!done);
#endif
}

// Barrier `id` among `threads` threads of the block.
static __device__ __forceinline__ void barrier_of(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(threads) : "memory");
}

// sm_90, programmatic dependent launch: the next kernel of the stream may start while this one runs; it waits, where it
// calls the second of these, until all before it is done and visible.
static __device__ __forceinline__ void start_next_launch()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

static __device__ __forceinline__ void await_launch_before()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// sm_90: a warpgroup hands registers to another. The block's must have been capped when it was launched.
template <int Registers> static __device__ __forceinline__ void release_registers()
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(Registers));
#endif
}

template <int Registers> static __device__ __forceinline__ void claim_registers()
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(Registers));
#endif
}

// Largest and smallest nonzero magnitude of some floats, NaN above infinity: what a power-of-two scale is chosen from.
struct Magnitudes {
    uint32_t most, least;       // 2 * bits and 2 * bits - 1 of |v|
    __device__ __forceinline__ Magnitudes() : most(0), least(0xffffffffu) {}
    __device__ __forceinline__ void add(uint32_t bits)
    {
        most = max(most, bits + bits);
        least = min(least, bits + bits - 1);
    }
    __device__ __forceinline__ void exchange(int lanes)
    {
        most = max(most, __shfl_xor_sync(0xffffffffu, most, lanes));
        least = min(least, __shfl_xor_sync(0xffffffffu, least, lanes));
    }
};

// A power of two that takes the largest magnitude to [2^14, 2^15), and its inverse. `wide` says that halves would lose
// something: a magnitude that comes below `keep`, one too far from 1 for the scales' product, infinity or NaN.
struct HalfScale {
    float factor, inverse;
    bool wide;
    __device__ __forceinline__ HalfScale(const Magnitudes &range, float keep)
    {
        uint32_t exponent = range.most >> 24;
        bool near = exponent >= 127 - 60 && exponent <= 127 + 60;
        if (!near) { wide = range.most != 0;  exponent = 127 + 14; }
        factor = __uint_as_float((268 - exponent) << 23);
        inverse = __uint_as_float((exponent - 14) << 23);
        if (near) wide = __uint_as_float((range.least + 1) >> 1) * factor < keep;
    }
};

// Two scaled floats as halves, and what is left of them as halves: 22 bits together.
static __device__ __forceinline__ void split_scaled_pair(float a, float b, float factor, uint32_t &high, uint32_t &low)
{
    __half2 h = __floats2half2_rn(a * factor, b * factor);
    float2 f = __half22float2(h);
    __half2 l = __floats2half2_rn(fmaf(a, factor, -f.x), fmaf(b, factor, -f.y));
    high = *(uint32_t *)&h;
    low = *(uint32_t *)&l;
}

static __device__ __forceinline__ uint32_t round_scaled_pair(float a, float b, float factor)
{
    __half2 h = __floats2half2_rn(a * factor, b * factor);
    return *(uint32_t *)&h;
}

// A power of two that takes the largest magnitude to [2^14, 2^15), NaN where it is too far from 1, and its inverse.
struct TileScale {
    float factor, inverse;
    __device__ __forceinline__ explicit TileScale(float most)
    {
        const uint32_t exponent = __float_as_uint(most) >> 23;
        const bool near = exponent >= 127 - 60 && exponent <= 127 + 60;
        factor = near ? __uint_as_float((268 - exponent) << 23) : most == 0 ? 1.f : __uint_as_float(0x7fffffffu);
        inverse = near ? __uint_as_float((exponent - 14) << 23) : 1.f;
    }
};

// Two floats as high + low * 2^-11.
static __device__ __forceinline__ void split_apart(float a, float b, float factor, uint32_t &high, uint32_t &low)
{
    a *= factor;
    b *= factor;
    const __half2 h = __floats2half2_rn(a, b);
    const float2 f = __half22float2(h);
    const __half2 l = __floats2half2_rn((a - f.x) * 2048, (b - f.y) * 2048);
    high = *(const uint32_t *)&h;
    low = *(const uint32_t *)&l;
}

}
