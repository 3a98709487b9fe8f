// convt3d's CUDA back end: the one file to compile, nvcc -O3 -c cuda/convt3d_cuda.cu, and to link with convt3d.c built
// with -DCONVT3D_CUDA. It holds the table of kernels; the files beside it hold one idea each:
//
//   status.cuh       CUDA's errors as convt3d statuses, cards, launching
//   kernel.cuh       the functions by which the table knows a kernel
//   number.cuh       the four element types: loads, accumulator, one rounding
//   geometry.cuh     phase algebra in the index type of a kernel
//   epilogue.cuh     what happens to an accumulator before it is rounded: the bias, the list up to a normalisation
//   pass.cuh         passes over the output: normalisations, and what of the list a kernel does not apply itself
//   store.cuh        a block's results to y, whole sectors in either layout
//   pack.cuh         the pack of kernels that read weights as they are
//   generic.cuh      the kernel that accepts everything
//   wgmma.cuh        Hopper's wgmma, mbarriers and bulk copies; split.cuh f32 as f16 pairs, x as planes of cells
//   dense_sm90.cuh   dense convolution of any stride as an implicit GEMM on wgmma: dense_tile.cuh its tiles,
//                    dense_store.cuh results to y, dense_pack.cuh operands, dense_host.cuh launches; fill.cuh outputs
//                    that no tap reaches
//   phases.cuh       backward: dy taken apart into phases of unit stride; dgrad_sm90.cuh dx from them on sm90_dense,
//                    wgrad_sm90.cuh dw and dbias on wgmma, wgrad_host.cuh launches; direct_backward.cuh both by
//                    multiply-adds, for few channels, walk_backward.cuh for few channels and stride 2, row by row;
//                    merge.cuh their sums over parts to dw and dbias
//   nonoverlap.cuh   kernel <= stride as a GEMM on mma.sync; mma.cuh its instructions, nonoverlap_f64.cuh its f64,
//                    nonoverlap_host.cuh launches
//   nonoverlap_sm90.cuh  kernel == stride as a GEMM on wgmma: nonoverlap90_tile.cuh its tiles, nonoverlap90_load.cuh x,
//                    nonoverlap90_pack.cuh w, nonoverlap90_store.cuh y, nonoverlap90_host.cuh launches; divisor.cuh
//                    division by what is fixed at launch
//   nonoverlap_backward.cuh  its dx, dw and dbias from one reading of dy; nonoverlap_backward_host.cuh launches
//   depthwise.cuh    few output channels a group: multiply-adds from windows of x; halo.cuh its and direct.cuh's tiles;
//                    of stride 2, depthwise_march.cuh kernel 3, depthwise_long.cuh 5 and 7, depthwise_matrix.cuh these
//                    in 16 bits
//   direct.cuh       multiply-adds from a register tile: any geometry, f64, few channels; at most 4 input channels with
//                    kernel 3 and stride 2: direct_few.cuh, in 16 bits direct_matrix.cuh
//   sm80.cuh         what the kernels on mma.sync share that follow:
//   dense_sm80.cuh   implicit GEMM on mma.sync from planar tiles of x: groups, few channels, f64, any geometry;
//                    dense_sm80_host.cuh its tiles and launches
//   scatter_sm80.cuh few output channels: every tap's products once on mma.sync, summed from shared memory
//   narrow.cuh       what the two share that follow: x as cells, the host's side
//   narrow_sm80.cuh  few input channels a group, stride 2 of the width: both phases as rows of weights
//   narrow_sm90.cuh  the same with stride 2 on all axes, all eight phases as rows of one wgmma
//   march_sm80.cuh   one output channel, stride 2: taps summed in registers while warps march along the depth
//   generic_backward.cuh  dx, dw and dbias of everything; sums.cuh sums over long stretches
//   list_backward.cuh     the list taken back from dy
//   easy_call.cuh    convt3d() and convt3d_backward() on any memory: staging, and slabs where the card is too small
//
// Compile time: with -DCONVT3D_CUDA_PART=n only part n is compiled, so that a build system can compile all parts of
// CONVT3D__PARTS side by side. Without it this is all of them.
#ifndef CONVT3D_CUDA
#define CONVT3D_CUDA
#endif
#define CONVT3D_BACKEND
#include "../convt3d.h"

#ifdef CONVT3D_CUDA_PART
#define CONVT3D__PART(n) (CONVT3D_CUDA_PART == (n))
#else
#define CONVT3D__PART(n) 1
#endif

#include <cuda_runtime.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>

#include "status.cuh"
#include "kernel.cuh"
#include "number.cuh"
#include "geometry.cuh"
#include "epilogue.cuh"
#include "store.cuh"
#include "pack.cuh"
#include "generic.cuh"
#include "wgmma.cuh"
#include "split.cuh"
#include "fill.cuh"
#include "dense_tile.cuh"
#include "dense_store.cuh"
#include "dense_sm90.cuh"
#include "dense_pack.cuh"
#include "dense_host.cuh"
#include "phases.cuh"
#include "dgrad_sm90.cuh"
#include "wgrad_sm90.cuh"
#include "wgrad_host.cuh"
#include "direct_backward.cuh"
#include "walk_backward.cuh"
#include "nonoverlap_backward.cuh"
#include "nonoverlap_backward_host.cuh"
#include "nonoverlap.cuh"
#include "nonoverlap_host.cuh"
#include "nonoverlap_sm90.cuh"
#include "nonoverlap90_host.cuh"
#include "depthwise.cuh"
#include "direct.cuh"
#include "dense_sm80.cuh"
#include "dense_sm80_host.cuh"
#include "scatter_sm80.cuh"
#include "narrow_sm80.cuh"
#include "narrow_sm90.cuh"
#include "march_sm80.cuh"
#include "pass.cuh"
#include "divisor.cuh"
#include "sums.cuh"
#include "generic_backward.cuh"
#include "list_backward.cuh"

#if CONVT3D__PART(0)
#include "easy_call.cuh"

// A row: the kernel whose functions it takes, and the one that has its pack of w.
#define CONVT3D__ROW(name, pass, exact_slabs, kernel, w, fuses)                                                        \
    {name, CONVT3D_DEVICE_CUDA, pass, exact_slabs, convt3d__##kernel##_refuses, convt3d__##kernel##_cost,              \
     convt3d__##kernel##_workspace, convt3d__##w##_packed, convt3d__##w##_pack, convt3d__##kernel##_run,               \
     convt3d__##kernel##_ready, fuses}
#define CONVT3D__FORWARD_ROW(name, kernel, w, exact_slabs, more)                                                       \
    CONVT3D__ROW(name, CONVT3D_FORWARD, exact_slabs, kernel, w, CONVT3D__FUSES_LIST | CONVT3D__FUSES_WIDE | (more))
#define CONVT3D__BACKWARD_ROW(name, pass, kernel, fuses)                                                               \
    CONVT3D__ROW(name, CONVT3D_BACKWARD_##pass, 0, kernel, plain_w, fuses)

// The plan takes the cheapest row that does not refuse; the generic row never does. Forward rows say last whether slabs
// are exact, and what they do besides fusing lists.
extern "C" const convt3d__backend convt3d__cuda_backends[] = {
    CONVT3D__FORWARD_ROW("sm90_dense", dense_sm90, dense_sm90, 0, CONVT3D__LEAVES_RESIDUALS),
    CONVT3D__FORWARD_ROW("sm90_nonoverlap", nonoverlap90, nonoverlap90, 0, 0),
    CONVT3D__FORWARD_ROW("sm80_nonoverlap", nonoverlap, plain_w, 0, 0),
    CONVT3D__FORWARD_ROW("cuda_depthwise", depthwise, depthwise, 1, 0),
    CONVT3D__FORWARD_ROW("cuda_direct", direct, direct, 1, 0),
    CONVT3D__FORWARD_ROW("sm80_dense", dense_sm80, dense_sm80, 0, 0),
    CONVT3D__FORWARD_ROW("sm80_scatter", scatter_sm80, scatter_sm80, 0, 0),
    CONVT3D__FORWARD_ROW("sm80_narrow", narrow_sm80, narrow_sm80, 0, 0),
    CONVT3D__FORWARD_ROW("sm90_narrow", narrow_sm90, narrow_sm90, 0, 0),
    CONVT3D__FORWARD_ROW("sm80_march", march_sm80, march_sm80, 0, 0),
    CONVT3D__FORWARD_ROW("cuda_generic", generic, plain_w, 1, 0),
    CONVT3D__BACKWARD_ROW("sm90_nonoverlap", X, patch, CONVT3D__JOINT),
    CONVT3D__BACKWARD_ROW("sm90_nonoverlap", W, patch, CONVT3D__JOINT),
    CONVT3D__BACKWARD_ROW("sm90_dgrad", X, dgrad_sm90, CONVT3D__LEAVES_DY),
    CONVT3D__BACKWARD_ROW("sm90_wgrad", W, wgrad_sm90, CONVT3D__LEAVES_DY),
    CONVT3D__BACKWARD_ROW("cuda_dgrad", X, direct_dx, 0),
    CONVT3D__BACKWARD_ROW("cuda_wgrad", W, direct_dw, 0),
    CONVT3D__BACKWARD_ROW("cuda_walk", X, walk, CONVT3D__JOINT),
    CONVT3D__BACKWARD_ROW("cuda_walk", W, walk, CONVT3D__JOINT),
    CONVT3D__BACKWARD_ROW("cuda_generic", X, generic_dx, 0),
    CONVT3D__BACKWARD_ROW("cuda_generic", W, generic_dw, 0),
};
extern "C" const int32_t convt3d__cuda_backend_count =
    (int32_t)(sizeof convt3d__cuda_backends / sizeof convt3d__cuda_backends[0]);
#endif
