// Hopper's instructions that C++ has no words for: wgmma, its descriptors and fences, mbarriers, bulk copies.
//
// Operands lie in shared memory as cells of 16 bytes (8 f16 or bf16, 4 tf32: consecutive channels of a position, or of
// one output channel of the weights), K-major and without swizzle. Eight consecutive cells are a core matrix, so rows
// one position further are one cell further: a tap is an addition to the descriptor's address field.
//
// Code under CONVT3D__SM90A exists in the sm_90a image alone. convt3d__has_sm90a() tells whether this build has one and
// the card runs it; a row whose kernels need it refuses otherwise.
#pragma once

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CONVT3D__SM90A 1
#else
#define CONVT3D__SM90A 0
#endif

extern "C" CONVT3D__HIDDEN int32_t convt3d__has_sm90a(const convt3d__plan *plan);

#if CONVT3D__PART(0)
namespace convt3d_cuda {

// Never launched. Its images differ in the one attribute that the driver reports of the image it chose.
static __global__ void __launch_bounds__(CONVT3D__SM90A ? 256 : 32) sm90a_probe() {}

}

extern "C" int32_t convt3d__has_sm90a(const convt3d__plan *plan)
{
    cudaFuncAttributes attributes;
    if (plan->cuda_arch != 90) return 0;
    if (plan->cuda_device < 0) return 1;
    if (cudaFuncGetAttributes(&attributes, (const void *)convt3d_cuda::sm90a_probe) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    return attributes.maxThreadsPerBlock == 256;
}
#endif

namespace convt3d_cuda {

#if CONVT3D__SM90A

// Shared operand: address in bytes; lead: cells from one cell of K to the next; rows are consecutive cells.
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t address, uint32_t lead)
{
    return (uint64_t)(address >> 4) | (uint64_t)lead << 16 | (uint64_t)8 << 32;
}

// The same operand some cells further. Addresses stay below 2^18, so nothing is carried out of their field.
__device__ __forceinline__ uint64_t wgmma_advance(uint64_t descriptor, uint32_t cells)
{
    return (descriptor & 0xffffffff00000000ull) | (uint32_t)((uint32_t)descriptor + cells);
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Groups> __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Groups) : "memory");
}

// Keeps the compiler from moving uses of accumulators across a wait.
template <int Count> __device__ __forceinline__ void wgmma_pin(float (&d)[Count])
{
#pragma unroll
    for (int i = 0; i < Count; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// A thread's N/2 elements of D as an instruction names them.
#define CONVT3D__LIST_8 "%0,%1,%2,%3"
#define CONVT3D__LIST_16 CONVT3D__LIST_8 ",%4,%5,%6,%7"
#define CONVT3D__LIST_24 CONVT3D__LIST_16 ",%8,%9,%10,%11"
#define CONVT3D__LIST_32 CONVT3D__LIST_24 ",%12,%13,%14,%15"
#define CONVT3D__LIST_48 CONVT3D__LIST_32 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define CONVT3D__LIST_64 CONVT3D__LIST_48 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define CONVT3D__LIST_80 CONVT3D__LIST_64 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define CONVT3D__LIST_96 CONVT3D__LIST_80 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define CONVT3D__LIST_112 CONVT3D__LIST_96 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define CONVT3D__LIST_128 CONVT3D__LIST_112 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define CONVT3D__LIST_160 CONVT3D__LIST_128 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define CONVT3D__OUTPUTS_8 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define CONVT3D__OUTPUTS_16 CONVT3D__OUTPUTS_8, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define CONVT3D__OUTPUTS_24 CONVT3D__OUTPUTS_16, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define CONVT3D__OUTPUTS_32 CONVT3D__OUTPUTS_24, "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define CONVT3D__OUTPUTS_48 CONVT3D__OUTPUTS_32, \
    "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define CONVT3D__OUTPUTS_64 CONVT3D__OUTPUTS_48, \
    "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define CONVT3D__OUTPUTS_80 CONVT3D__OUTPUTS_64, \
    "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define CONVT3D__OUTPUTS_96 CONVT3D__OUTPUTS_80, \
    "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define CONVT3D__OUTPUTS_112 CONVT3D__OUTPUTS_96, \
    "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define CONVT3D__OUTPUTS_128 CONVT3D__OUTPUTS_112, \
    "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define CONVT3D__OUTPUTS_160 CONVT3D__OUTPUTS_128, \
    "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]), \
    "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])

// What multiplies: d, this thread's N/2 elements of D[64][N], is overwritten or, with `accumulate`, added to.
// Wgmma       A[64][2 cells] B[N][2 cells]^T
// WgmmaOuter  A[2 cells of positions][64]^T B[same][N]: both operands lie with channels side by side
// WgmmaTurned A[64][2 cells] B[2 cells][N], where 8 of N lie in a cell
// WgmmaRows   A[64][16] B[N][2 cells]^T, a being a fragment of A as mma.sync's, in registers
template <class Operand, int N> struct Wgmma;
template <class Operand, int N> struct WgmmaOuter;
template <class Operand, int N> struct WgmmaTurned;
template <class Operand, int N> struct WgmmaRows;

#define CONVT3D__WGMMA(Name, Operand, N, Shape, Types, Transposes, A, B, Clear)                                        \
    template <> struct Name<Operand, N> {                                                                              \
        static __device__ __forceinline__ void multiply(float *d, uint64_t a, uint64_t b, int accumulate)              \
        {                                                                                                              \
            asm volatile("{.reg .pred p; setp.ne.b32 p, %" #Clear ", 0;\n"                                             \
                         "wgmma.mma_async.sync.aligned.m64n" #N Shape ".f32." Types " {" CONVT3D__LIST_##N             \
                         "}, %" #A ", %" #B ", p, 1, 1" Transposes ";}"                                                \
                         : CONVT3D__OUTPUTS_##N                                                                        \
                         : "l"(a), "l"(b), "r"(accumulate));                                                           \
        }                                                                                                              \
    };
#define CONVT3D__WGMMA_HALVES(Name, N, Transposes, A, B, Clear)                                                        \
    CONVT3D__WGMMA(Name, __half, N, "k16", "f16.f16", Transposes, A, B, Clear)                                         \
    CONVT3D__WGMMA(Name, __nv_bfloat16, N, "k16", "bf16.bf16", Transposes, A, B, Clear)
struct Tf32 {};     // a float whose low 13 bits are zero
#define CONVT3D__WGMMA_TYPES(N, A, B, Clear)                                                                           \
    CONVT3D__WGMMA_HALVES(Wgmma, N, ", 0, 0", A, B, Clear)                                                             \
    CONVT3D__WGMMA(Wgmma, Tf32, N, "k8", "tf32.tf32", "", A, B, Clear)
CONVT3D__WGMMA_TYPES(8, 4, 5, 6)
CONVT3D__WGMMA_TYPES(16, 8, 9, 10)
CONVT3D__WGMMA_TYPES(24, 12, 13, 14)
CONVT3D__WGMMA_TYPES(32, 16, 17, 18)
CONVT3D__WGMMA_TYPES(48, 24, 25, 26)
CONVT3D__WGMMA_TYPES(64, 32, 33, 34)
CONVT3D__WGMMA_TYPES(96, 48, 49, 50)
CONVT3D__WGMMA_TYPES(112, 56, 57, 58)
CONVT3D__WGMMA_TYPES(128, 64, 65, 66)
CONVT3D__WGMMA_HALVES(WgmmaOuter, 16, ", 1, 1", 8, 9, 10)
CONVT3D__WGMMA_HALVES(WgmmaOuter, 32, ", 1, 1", 16, 17, 18)
CONVT3D__WGMMA_HALVES(WgmmaOuter, 48, ", 1, 1", 24, 25, 26)
CONVT3D__WGMMA_HALVES(WgmmaOuter, 64, ", 1, 1", 32, 33, 34)
CONVT3D__WGMMA_HALVES(WgmmaOuter, 96, ", 1, 1", 48, 49, 50)
CONVT3D__WGMMA_HALVES(WgmmaOuter, 128, ", 1, 1", 64, 65, 66)
CONVT3D__WGMMA_HALVES(WgmmaTurned, 64, ", 0, 1", 32, 33, 34)

#define CONVT3D__WGMMA_ROWS(Operand, N, Types, A0, A1, A2, A3, B, Clear)                                               \
    template <> struct WgmmaRows<Operand, N> {                                                                         \
        static __device__ __forceinline__ void multiply(float *d, const uint32_t *a, uint64_t b, int accumulate)       \
        {                                                                                                              \
            asm volatile("{.reg .pred p; setp.ne.b32 p, %" #Clear ", 0;\n"                                             \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." Types " {" CONVT3D__LIST_##N                \
                         "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p, 1, 1, 0;}"                          \
                         : CONVT3D__OUTPUTS_##N                                                                        \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));                       \
        }                                                                                                              \
    };
#define CONVT3D__WGMMA_ROWS_TYPES(N, A0, A1, A2, A3, B, Clear)                                                         \
    CONVT3D__WGMMA_ROWS(__half, N, "f16.f16", A0, A1, A2, A3, B, Clear)                                                \
    CONVT3D__WGMMA_ROWS(__nv_bfloat16, N, "bf16.bf16", A0, A1, A2, A3, B, Clear)
CONVT3D__WGMMA_ROWS_TYPES(32, 16, 17, 18, 19, 20, 21)
CONVT3D__WGMMA_ROWS_TYPES(64, 32, 33, 34, 35, 36, 37)
CONVT3D__WGMMA_ROWS_TYPES(80, 40, 41, 42, 43, 44, 45)
CONVT3D__WGMMA_ROWS_TYPES(128, 64, 65, 66, 67, 68, 69)
CONVT3D__WGMMA_ROWS_TYPES(160, 80, 81, 82, 83, 84, 85)

template <int Registers> __device__ __forceinline__ void take_registers()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers> __device__ __forceinline__ void give_registers()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

// Programmatic dependent launch: the next kernel of the stream may start as soon as blocks leave room for its own;
// here this one waits until all before it is done and visible.
__device__ __forceinline__ void let_next_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ void wait_for_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// mbarriers: address in shared memory.
__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}
__device__ __forceinline__ void barrier_init_done()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity)
{
    asm volatile("{.reg .pred p;\n"
                 "WAIT_%=: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@!p bra WAIT_%=;\n}" ::"r"(barrier), "r"(parity) : "memory");
}

// bytes: a multiple of 16, as both addresses.
__device__ __forceinline__ void bulk_load(uint32_t shared, const void *global, uint32_t bytes, uint32_t barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
                 "r"(shared), "l"(global), "r"(bytes), "r"(barrier) : "memory");
}

// A barrier of one warpgroup; 0 is __syncthreads().
__device__ __forceinline__ void warpgroup_sync(int barrier)
{
    asm volatile("bar.sync %0, 128;" ::"r"(barrier) : "memory");
}

// As warpgroup_sync; true where it was for all threads.
__device__ __forceinline__ bool warpgroup_and(int barrier, bool value)
{
    int all;
    asm volatile("{.reg .pred p, q; setp.ne.b32 p, %2, 0;\n"
                 "barrier.cta.red.and.pred q, %1, 128, p;\n"
                 "selp.b32 %0, 1, 0, q;}" : "=r"(all) : "r"(barrier), "r"((int)value) : "memory");
    return all != 0;
}

#else
struct Tf32 {};
__device__ __forceinline__ void let_next_start() {}
__device__ __forceinline__ void wait_for_previous() {}
#endif

}
