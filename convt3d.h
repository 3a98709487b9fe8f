/* convt3d.h - 3-D transposed convolution (PyTorch's nn.ConvTranspose3d) as one C header.
 *
 * Public domain or MIT-0, at your choice: see the end of the file LICENSE. C99, C++17, CUDA C++.
 *
 * USE
 *     In exactly one C or C++ file:             Everywhere else:
 *         #define CONVT3D_IMPLEMENTATION            #include "convt3d.h"
 *         #include "convt3d.h"
 *     (or compile convt3d.c, which is those two lines). Build it with -O2 and, for threads, -fopenmp; link with -lm.
 *
 *         convt3d_desc desc = {0};                          zero means the default
 *         desc.batch = 1;  desc.in_channels = 8;  desc.out_channels = 4;
 *         for (int a = 0; a < 3; a++) { desc.in_size[a] = 16;  desc.kernel[a] = 2;  desc.stride[a] = 2; }
 *         convt3d_io io = {0};  io.x = x;  io.w = w;  io.bias = bias;  io.y = y;
 *         convt3d_error error;
 *         if (convt3d(&desc, &io, &error) != CONVT3D_OK) fprintf(stderr, "%s\n", error.text);
 *
 * WHAT IT COMPUTES
 *     y = bias;  y[n, oc, i*stride - padding + k*dilation] += x[n, ic, i] * w[ic, oc within its group, k]
 *     on each of the three axes, for every ic of the group of oc, every input index i and every tap k whose target
 *     lies inside the output. The output size is that of PyTorch, per axis:
 *         (in_size - 1)*stride - 2*padding + dilation*(kernel - 1) + output_padding + 1
 *     Every parameter may differ from axis to axis. Axes are always in the order depth, height, width.
 *
 * WHAT FOLLOWS THE CONVOLUTION
 *     desc.ops is a list of up to 8 entries, applied to each output value in the accumulator's precision, in their
 *     order, before the one rounding to desc.dtype: CONVT3D_OPS below has them all. Zero-initialised entries end it.
 *         desc.ops[0].kind = CONVT3D_OP_RELU;                         and, eps being literal,
 *         desc.ops[1].kind = CONVT3D_OP_GROUP_NORM;  desc.ops[1].groups = 8;  desc.ops[1].a = 1e-5;
 *     is ConvTranspose3d + ReLU + GroupNorm(8). An entry's tensors are those of io.ops at the same index.
 *     kind                  fields                      v becomes (PyTorch's definitions, NaN stays NaN)
 *     AFFINE                a, b                        a*v + b
 *     CHANNEL_AFFINE        io scale, shift             scale[oc]*v + shift[oc]: a folded BatchNorm
 *     ADD, MULTIPLY         io residual, stride[5]      v + residual, v * residual
 *     CLAMP                 a, b                        min(max(v, a), b); a, b may be infinite
 *     RELU, RELU6           -                           max(v, 0), min(max(v, 0), 6)
 *     LEAKY_RELU            a = negative_slope          v > 0 ? v : a*v
 *     SILU, SIGMOID, TANH   -                           v/(1 + exp(-v)), 1/(1 + exp(-v)), tanh(v)
 *     GELU, GELU_TANH       -                           v*(1 + erf(v/sqrt(2)))/2, and its tanh form
 *     HARDSWISH             -                           v*min(max(v + 3, 0), 6)/6
 *     HARDSIGMOID           -                           min(max(v + 3, 0), 6)/6
 *     ELU                   a = alpha                   v > 0 ? v : a*(exp(v) - 1)
 *     SOFTPLUS              a = beta, b = threshold     a*v > b ? v : log(1 + exp(a*v))/a; PyTorch's are 1 and 20
 *     MISH                  -                           v*tanh(log(1 + exp(v)))
 *     GROUP_NORM            a = eps, groups             (v - mean)/sqrt(variance + eps)*scale[oc] + shift[oc], over
 *                                                       each sample's groups of consecutive channels: groups = 1 is
 *                                                       LayerNorm-like, out_channels InstanceNorm
 *     BATCH_NORM            a = eps, b = momentum       the same over each channel of the whole batch, as in training
 *     A residual has the output's shape and desc.dtype; its stride[5] is like y_stride, zero is dense; y itself, with
 *     y's strides, may be one residual. The small tensors are float (f64: double): scale, shift and the running
 *     statistics [out_channels], mean and rstd the same, those of GROUP_NORM [batch][groups]. NULL scale or shift stand
 *     for 1 or 0. mean and rstd = 1/sqrt(variance + eps) are written where given; the running ones become
 *     (1 - b)*running + b*new, with the unbiased variance, as in PyTorch. Variances are the population's, by merging of
 *     means and squared deviations: no E[v^2] - E[v]^2.
 *
 * BACKWARD
 *     A pass is CONVT3D_FORWARD or a sum of CONVT3D_BACKWARD_... bits, CONVT3D_BACKWARD being all of them:
 *         _X     io.dx     [as x, of dx_stride]   dx[n, ic, i] = sum over oc, k of g[n, oc, o] * w[ic, oc, k],
 *                                                 o = i*stride - padding + k*dilation, where that is an output
 *         _W     io.dw     [as w, dense]          dw[ic, oc, k] = sum over n, i of x[n, ic, i] * g[n, oc, o]
 *         _BIAS  io.dbias  [out_channels]         sum of g over all but the channel
 *         _OPS   io.ops[]  d_residual (y's shape, dense in desc.layout, desc.dtype), d_scale and d_shift (float, f64:
 *                          double; [out_channels]) of entries that have such a tensor
 *     from io.dy, the gradient of y. g is the gradient of the convolution's output: dy itself or, where a list follows,
 *     dy taken back through it and rounded once to desc.dtype, as PyTorch does. A gradient whose pointer is NULL is not
 *     computed. One whose bit is in desc.accumulate is added to what is there, with one rounding.
 *     What the list's gradients need is kept by the forward pass, when desc.backward holds the bits of the pass to
 *     come: mean and rstd of its normalisations, and what convt3d_info.saves says:
 *         CONVT3D_SAVES_NOTHING      the list is affine: neither
 *         CONVT3D_SAVES_OUTPUT       only its last entry is curved, and its slope follows from y (RELU, RELU6, SIGMOID,
 *                                    TANH; LEAKY_RELU with a >= 0, ELU with a > 0): backward reads io.y
 *         CONVT3D_SAVES_CONVOLUTION  the forward pass also writes io.saved, the convolution's output before the list
 *                                    (y's shape, dense in desc.layout, desc.dtype); the list goes on from these rounded
 *                                    values, so that both passes see the same. Backward reads it.
 *     Residuals must still be there for MULTIPLY and, with SAVES_CONVOLUTION, for ADD where a curved entry or a
 *     normalisation follows; so y must not have been the residual of such an entry.
 *     A normalisation's gradient goes through its mean and variance. Slopes at corners are PyTorch's. Slabs are for the
 *     forward pass.
 *
 * WHAT IT DOES NOT
 *     MaxPool, AvgPool, softmax and data loading are not this library's job. It never prints, aborts, exits, starts a
 *     constructor or keeps global state. A back end that was not compiled in is absent: asking for it is an error.
 *
 * TENSORS
 *     x       [batch, in_channels,  in_size...]   laid out as desc.layout or desc.x_stride says
 *     w       [in_channels, out_channels/groups, kernel...]   dense, in this order in every layout
 *     bias    [out_channels], or NULL for none
 *     y       [batch, out_channels, output size...]   laid out as desc.layout or desc.y_stride says
 *     All have the type desc.dtype. f16 and bf16 are bit patterns in uint16_t. An empty tensor may be NULL.
 *     y must not overlap x, w, bias, workspace or, but for one residual, a tensor of the list; channel slices of one
 *     buffer that interleave without sharing an element do not overlap. saved, the gradients and, backward, the
 *     workspace must not overlap each other or another tensor; for these the address ranges count. Nothing outside the
 *     elements named above is read or written.
 *
 * FIELDS OF convt3d_desc
 *     field           unit       zero means        least    most
 *     batch           samples    0 (y is empty)    0        -         what the sizes multiply to must fit int64_t
 *     in_channels     channels   an error          1        -         multiple of groups
 *     out_channels    channels   an error          1        -         multiple of groups
 *     groups          groups     1                 1        -
 *     in_size[3]      voxels     an error          1        -         0 is legal with fixed_out_size
 *     kernel[3]       taps       an error          1        -
 *     stride[3]       voxels     1                 1        -
 *     padding[3]      voxels     0                 any      any       the low side; negative adds bias-only voxels
 *     output_padding  voxels     0                 0        max(stride, dilation) - 1    the high side
 *     dilation[3]     voxels     1                 1        -
 *     fixed_out_size  flag       0                 0        1         1: out_size is taken as given
 *     out_size[3]     voxels     0                 0        -         only with fixed_out_size; what no tap reaches
 *                                                                     is the bias; output_padding must then be 0
 *     dtype           enum       CONVT3D_F32
 *     layout          enum       CONVT3D_NCDHW
 *     x_stride[5]     elements   dense in layout   0        -         order n, c, d, h, w in every layout; all five
 *     y_stride[5]     elements   dense in layout   1        -         zero = dense; y's elements must not overlap;
 *                                                                     an axis of one element may have any stride
 *     ops[8]          list       nothing                                see WHAT FOLLOWS THE CONVOLUTION
 *     dy_stride[5]    elements   dense in layout   0        -         of dy; backward alone, as the next two
 *     dx_stride[5]    elements   dense in layout   1        -         of dx; its elements must not overlap
 *     accumulate      bits       overwrite         0        15        CONVT3D_BACKWARD_...: gradients to add to
 *     backward        bits       none follows      0        15        the backward pass that forward keeps things for
 *     device          enum       CONVT3D_DEVICE_CPU
 *     math            enum       CONVT3D_ACCURATE                     CONVT3D_TF32 permits the device's TF32 units
 *     threads         threads    all of OpenMP's   1        -         CPU only; the result never depends on it
 *     workspace_limit bytes      no limit          1        -         only kernels that need no more are taken
 *     alignment       bytes      16                element  -         power of two; of x, w, w_packed, y, saved,
 *                                                                     dy, dx and dw
 *     cuda_arch       10*major + minor; 0: the current device. To plan for a card that is not there.
 *     force           text       the fastest                          name of the one kernel to use, or an error
 *     reserved        -          must be zero
 *
 * CALLS
 *     convt3d()                  plans, finds its workspace, runs, returns when y is there. Pointers may have any
 *                                alignment down to their element's.
 *     convt3d_backward()         the same for the gradients whose pointers are given.
 *     convt3d_plan_init()        validates, chooses the kernel. A plan owns nothing: copy it, share it, forget it.
 *     convt3d_workspace_size()   bytes of workspace that convt3d_run() wants with this plan.
 *     convt3d_run()              computes. Allocates nothing. On the CPU it returns when y is there.
 *     convt3d_packed_size(), convt3d_pack_weights()   weights laid out once for many runs. Give io.w_packed and
 *                                io.pack_tag instead of io.w. The tag refuses a pack made for another kernel, another
 *                                geometry of the weights or another machine; batch and in_size may differ while that
 *                                leaves the kernel the same.
 *     convt3d_plan_info()        output size, kernel, FLOPs, bytes, workspace.
 *     convt3d_explain()          the same as text, with why each other kernel was refused.
 *     convt3d_kernel_name(), convt3d_device_count()   what this build and machine have.
 *     convt3d_output_size(), convt3d_solve_output_padding(), convt3d_from_onnx(), convt3d_slab()   geometry.
 *
 * ERRORS
 *     Every call returns a convt3d_status, CONVT3D_OK being 0, and fills the convt3d_error that it is given (NULL is
 *     allowed). There is one status for every rule; the list CONVT3D_STATUSES below has them all with their messages.
 *     A failing call has written nothing to y or a gradient, except where its status says otherwise.
 *
 * NUMERIC CONTRACT  (docs/numerics.md derives it, tests/ enforces it)
 *     K = number of products that enter an output, S = sum of |x||w| over them + |bias|, u = 2^-24 (f64: 2^-53),
 *     eta = smallest subnormal of the accumulator, y64 = the value in exact arithmetic.
 *     1. Integer data with S < 2^24 (f64: 2^53) and operands up to 2^11 (bf16: 2^8) give the exact result.
 *     2. |y - y64| <= (K+4)*2u*S + (K+1)*eta + max(u_out*|y64|, eta_out/2). K = 0 gives exactly the rounded bias.
 *        CONVT3D_TF32 may add 2^-10 * S. On CUDA f32 may add K * 2^-48 * max|x| of the sample * max|w| of the output
 *        channel, the range that a scaled split of the operands loses. Where S exceeds the accumulator's range nothing
 *        is promised; otherwise overflow of the output type gives infinity. The reference accumulates in double.
 *     3. The same bits on every run, for any number of threads; a sample's bits do not depend on its batch.
 *     4. NaN and infinity reach exactly the outputs whose window covers them (zero times infinity is NaN).
 *     5. Subnormals are not flushed. Conversions round to nearest, ties to even.
 *     6. Entries of the list are computed in the accumulator's type or better, each within a few units of its last
 *        place and what it makes of its argument's error; what a normalisation reads is rounded to that type once.
 *        A normalisation spreads NaN and infinity over its group, and BATCH_NORM ties a sample to its batch.
 *     7. Gradients keep items 1 to 5, K and S being those of their sums: dx and its bits depend on no other sample; dw
 *        and dbias sum over the batch in an order that the shape alone decides.
 *     8. Slabs equal the whole bit for bit under kernels whose convt3d_plan_info says exact_slabs.
 *     Compile without -ffast-math and its parts: they void items 2, 4 and 5.
 *
 * ON AN NVIDIA GPU  (built with CONVT3D_CUDA)
 *     desc.device = CONVT3D_DEVICE_CUDA runs the same problem with the same meaning on the current CUDA device; it is
 *     never served by the CPU. convt3d() takes any mix of host, pinned, managed and device pointers: what the device can
 *     reach is used in place, the rest is staged, in slabs where the card is too small, and y is there when it returns.
 *     convt3d_run() wants device memory, enqueues on io.stream and returns; it allocates nothing, waits for nothing and
 *     may be captured in a graph. A plan belongs to the device that was current when it was made.
 *
 * MACROS, defined before the implementation
 *     CONVT3D_STATIC                        every public function static: several files may hold private copies
 *     CONVT3D_API                           put before every declaration (visibility, dllexport, ...)
 *     CONVT3D_MALLOC(context, bytes), CONVT3D_FREE(context, pointer)   both or neither; context is io.alloc_context
 *     CONVT3D_CPU_FAST                      cpu/convt3d_cpu.c is linked
 *     CONVT3D_CUDA                          cuda/convt3d_cuda.cu is linked
 */
#ifndef CONVT3D_H
#define CONVT3D_H

#include <stddef.h>
#include <stdint.h>

#define CONVT3D_VERSION "0.1.0"
#define CONVT3D_MAX_OPS 8

#ifndef CONVT3D_API
#  if defined(CONVT3D_STATIC) && defined(__GNUC__)
#    define CONVT3D_API __attribute__((unused)) static
#  elif defined(CONVT3D_STATIC)
#    define CONVT3D_API static
#  elif defined(__GNUC__) && !defined(_WIN32)
#    define CONVT3D_API extern __attribute__((visibility("default")))
#  elif defined(_WIN32) && defined(CONVT3D_SHARED)
#    define CONVT3D_API extern __declspec(dllexport)
#  else
#    define CONVT3D_API extern
#  endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { CONVT3D_F32 = 0, CONVT3D_F64 = 1, CONVT3D_F16 = 2, CONVT3D_BF16 = 3 };                     /* desc.dtype  */
enum { CONVT3D_NCDHW = 0, CONVT3D_NDHWC = 1 };                                                    /* desc.layout */
enum { CONVT3D_DEVICE_CPU = 0, CONVT3D_DEVICE_CUDA = 1 };                                          /* desc.device */
enum { CONVT3D_ACCURATE = 0, CONVT3D_TF32 = 1 };                                                  /* desc.math   */
enum { CONVT3D_FORWARD = 0, CONVT3D_BACKWARD_X = 1, CONVT3D_BACKWARD_W = 2, CONVT3D_BACKWARD_BIAS = 4,
       CONVT3D_BACKWARD_OPS = 8, CONVT3D_BACKWARD = 15 };                                         /* pass        */
enum { CONVT3D_SAVES_NOTHING = 0, CONVT3D_SAVES_OUTPUT = 1, CONVT3D_SAVES_CONVOLUTION = 2 };       /* info.saves  */

/* What may follow the convolution: id, name, and what the entry uses. */
#define CONVT3D_USES_A          1
#define CONVT3D_USES_B          2
#define CONVT3D_USES_RESIDUAL   4
#define CONVT3D_USES_SCALE      8       /* scale and shift */
#define CONVT3D_USES_GROUPS     16
#define CONVT3D_USES_STATISTICS 32      /* it normalises: mean and rstd */
#define CONVT3D_USES_RUNNING    64
#define CONVT3D_OPS(X) \
    X(END,            "end",            0) \
    X(AFFINE,         "affine",         1 + 2) \
    X(CHANNEL_AFFINE, "channel_affine", 8) \
    X(ADD,            "add",            4) \
    X(MULTIPLY,       "multiply",       4) \
    X(CLAMP,          "clamp",          1 + 2) \
    X(RELU,           "relu",           0) \
    X(RELU6,          "relu6",          0) \
    X(LEAKY_RELU,     "leaky_relu",     1) \
    X(SILU,           "silu",           0) \
    X(SIGMOID,        "sigmoid",        0) \
    X(TANH,           "tanh",           0) \
    X(GELU,           "gelu",           0) \
    X(GELU_TANH,      "gelu_tanh",      0) \
    X(HARDSWISH,      "hardswish",      0) \
    X(HARDSIGMOID,    "hardsigmoid",    0) \
    X(ELU,            "elu",            1) \
    X(SOFTPLUS,       "softplus",       1 + 2) \
    X(MISH,           "mish",           0) \
    X(GROUP_NORM,     "group_norm",     1 + 8 + 16 + 32) \
    X(BATCH_NORM,     "batch_norm",     1 + 2 + 8 + 32 + 64)

enum {                                                                                            /* op.kind     */
#define CONVT3D__X(id, name, uses) CONVT3D_OP_##id,
    CONVT3D_OPS(CONVT3D__X)
#undef CONVT3D__X
    CONVT3D_OP_COUNT
};

/* Every rule, its status, and its message: %f field, %a axis, %g the value given, %l the limit, %s detail. */
#define CONVT3D_STATUSES(X) \
    X(OK,                        "ok") \
    X(NULL_ARGUMENT,             "%f must not be NULL") \
    X(RESERVED_NOT_ZERO,         "%f[%a] = %g must be zero") \
    X(PASS_UNKNOWN,              "pass = %g is neither CONVT3D_FORWARD (0) nor a sum of CONVT3D_BACKWARD_... (1 ... %l)") \
    X(PLAN_INVALID,              "plan was not made by a successful convt3d_plan_init") \
    X(DTYPE_UNKNOWN,             "dtype = %g is none of f32 (0), f64 (1), f16 (2), bf16 (3)") \
    X(LAYOUT_UNKNOWN,            "layout = %g is none of NCDHW (0), NDHWC (1)") \
    X(DEVICE_UNKNOWN,            "device = %g is none of CPU (0), CUDA (1)") \
    X(MATH_UNKNOWN,              "math = %g is none of accurate (0), TF32 (1)") \
    X(FLAG_INVALID,              "%f = %g must be 0 or 1") \
    X(GRADIENT_BITS,             "%f = %g must be a sum of CONVT3D_BACKWARD_... (0 ... %l)") \
    X(BATCH_NEGATIVE,            "batch = %g must not be negative") \
    X(IN_CHANNELS_NOT_POSITIVE,  "in_channels = %g must be at least 1") \
    X(OUT_CHANNELS_NOT_POSITIVE, "out_channels = %g must be at least 1") \
    X(GROUPS_NEGATIVE,           "groups = %g must not be negative (0 means 1)") \
    X(GROUPS_DIVIDE_IN,          "groups = %g must divide in_channels = %l") \
    X(GROUPS_DIVIDE_OUT,         "groups = %g must divide out_channels = %l") \
    X(IN_SIZE_TOO_SMALL,         "in_size[%a] = %g must be at least %l") \
    X(KERNEL_NOT_POSITIVE,       "kernel[%a] = %g must be at least 1") \
    X(STRIDE_NEGATIVE,           "stride[%a] = %g must not be negative (0 means 1)") \
    X(DILATION_NEGATIVE,         "dilation[%a] = %g must not be negative (0 means 1)") \
    X(OUTPUT_PADDING_NEGATIVE,   "output_padding[%a] = %g must not be negative") \
    X(OUTPUT_PADDING_TOO_LARGE,  "output_padding[%a] = %g must be smaller than max(stride[%a], dilation[%a]) = %l") \
    X(OUTPUT_PADDING_AND_OUT_SIZE, "output_padding[%a] = %g must be 0 when fixed_out_size is set") \
    X(OUT_SIZE_NEGATIVE,         "out_size[%a] = %g must not be negative") \
    X(OUT_SIZE_NOT_FIXED,        "out_size[%a] = %g is only read when fixed_out_size is set") \
    X(OUTPUT_EMPTY,              "the output size on axis %a is %g: padding[%a] = %l crops everything") \
    X(GEOMETRY_OVERFLOW,         "%f[%a] = %g takes the indices on axis %a beyond 64 bits") \
    X(X_TOO_LARGE,               "x exceeds the address space of %l bytes") \
    X(W_TOO_LARGE,               "w exceeds the address space of %l bytes") \
    X(Y_TOO_LARGE,               "y exceeds the address space of %l bytes") \
    X(X_STRIDE_NEGATIVE,         "x_stride[%a] = %g must not be negative") \
    X(Y_STRIDE_NEGATIVE,         "y_stride[%a] = %g must not be negative") \
    X(Y_STRIDE_OVERLAP,          "y_stride[%a] = %g must be at least %l, or elements of y overlap") \
    X(DY_STRIDE_NEGATIVE,        "dy_stride[%a] = %g must not be negative") \
    X(DX_STRIDE_NEGATIVE,        "dx_stride[%a] = %g must not be negative") \
    X(DX_STRIDE_OVERLAP,         "dx_stride[%a] = %g must be at least %l, or elements of dx overlap") \
    X(DX_TOO_LARGE,              "dx exceeds the address space of %l bytes") \
    X(DY_TOO_LARGE,              "dy exceeds the address space of %l bytes") \
    X(OP_UNKNOWN,                "ops[%a].kind = %g is no entry of CONVT3D_OPS (0 ... %l)") \
    X(OP_AFTER_END,              "ops[%a] follows the end of the list and must be zero") \
    X(OP_PARAMETER,              "ops[%a].%f must be %s") \
    X(OP_PARAMETER_UNUSED,       "ops[%a].%f must be zero: %s does not use it") \
    X(OP_GROUPS,                 "ops[%a].groups = %g must be at least 1 and divide out_channels = %l") \
    X(OP_STRIDE_NEGATIVE,        "ops[%a].%f = %g must not be negative") \
    X(OP_RESIDUAL_TOO_LARGE,     "the residual of ops[%a] exceeds the address space of %l bytes") \
    X(OP_ONE_VALUE,              "ops[%a]: a batch normalisation of one value a channel has no variance") \
    X(OP_TENSOR_MISSING,         "io.ops[%a].%f must not be NULL") \
    X(OP_TENSOR_UNUSED,          "io.ops[%a].%f must be NULL: %s does not use it") \
    X(OP_MISALIGNED,             "io.ops[%a].%f is not aligned to its element's %l bytes") \
    X(OP_ALIASED,                "y overlaps io.ops[%a].%f (only one residual may be y, with y's strides)") \
    X(THREADS_NEGATIVE,          "threads = %g must not be negative (0 means all)") \
    X(WORKSPACE_LIMIT_NEGATIVE,  "workspace_limit = %g must not be negative (0 means none)") \
    X(ALIGNMENT_INVALID,         "alignment = %g must be a power of two and at least the element size %l (0 means 16)") \
    X(CUDA_ARCH_NEGATIVE,        "cuda_arch = %g must not be negative (0 means the current device)") \
    X(FORCE_NOT_TERMINATED,      "force has no terminating zero within its %l bytes") \
    X(KERNEL_UNKNOWN,            "force = \"%s\" names no kernel of this build, device and pass") \
    X(REFUSED,                   "force = \"%s") \
    X(NO_KERNEL,                 "no kernel takes this problem: %s") \
    X(CUDA_ABSENT,               "device = CUDA, but this build has no CUDA back end (CONVT3D_CUDA was not defined)") \
    X(CUDA_NO_DRIVER,            "device = CUDA, but no NVIDIA driver is installed") \
    X(CUDA_DRIVER_TOO_OLD,       "the NVIDIA driver serves CUDA %g, older than this build's CUDA %l (1000*major + 10*minor)") \
    X(CUDA_NO_DEVICE,            "device = CUDA, but the driver finds no CUDA device") \
    X(CUDA_NO_IMAGE,             "this build has no machine code for this card (sm_%g): %s") \
    X(CUDA_WRONG_DEVICE,         "the plan was made for CUDA device %l, but device %g is current") \
    X(CUDA_PLANNED_FOR_ARCH,     "the plan was made for cuda_arch = %g without a device and cannot run") \
    X(CUDA_CAPTURING,            "an easy call allocates and waits, so it cannot be captured: plan and use convt3d_run()") \
    X(CUDA_OUT_OF_MEMORY,        "out of device memory: %l bytes") \
    X(CUDA_FAILED,               "CUDA: %s") \
    X(CUDA_FAULT,                "CUDA device fault, y is undefined: %s") \
    X(W_AND_PACKED,              "w and w_packed are both given; exactly one is wanted") \
    X(PACK_MISMATCH,             "pack_tag = %g is not that of this plan's kernel, weights and machine (%l)") \
    X(PACK_UNUSED,               "the plan's pass (%g) reads no weights: there is nothing to pack") \
    X(MISALIGNED,                "%f is not aligned to alignment = %l bytes") \
    X(ALIASED,                   "y overlaps %f") \
    X(OUTPUT_ALIASED,            "%f overlaps %s") \
    X(GRADIENT_NOT_PLANNED,      "%f is given, but the plan's pass (%g) does not compute it") \
    X(SAVED_UNUSED,              "saved must be NULL: this forward pass does not write it (see convt3d_info.saves)") \
    X(WORKSPACE_TOO_SMALL,       "workspace_bytes = %g is less than the %l bytes of convt3d_workspace_size") \
    X(OUT_OF_MEMORY,             "out of memory: %l bytes of workspace") \
    X(SLAB_AXIS,                 "axis = %g must be 0, 1 or 2") \
    X(SLAB_NORM,                 "ops[%a] normalises over the output, of which a slab is a part") \
    X(SLAB_RANGE,                "%f = %g lies outside the slab range that ends at %l") \
    X(OUTPUT_SIZE_UNREACHABLE,   "output size %g on axis %a needs output_padding[%a] = %l, outside 0 ... max(stride[%a], dilation[%a]) - 1") \
    X(ONNX_AUTO_PAD_UNKNOWN,     "auto_pad = %g is none of NOTSET (0), SAME_UPPER (1), SAME_LOWER (2), VALID (3)") \
    X(ONNX_PADS_WITH_AUTO_PAD,   "pads[%a] = %g must be 0 when auto_pad is set") \
    X(ONNX_OUTPUT_SHAPE,         "output_shape[%a] = %g must be at least 1")

typedef enum convt3d_status {
#define CONVT3D__X(id, message) CONVT3D_##id,
    CONVT3D_STATUSES(CONVT3D__X)
#undef CONVT3D__X
    CONVT3D_STATUS_COUNT
} convt3d_status;

typedef struct convt3d_error {
    convt3d_status status;
    const char *field;       /* name of the offending field or argument; "" when there is none          */
    int32_t axis;            /* 0, 1, 2 = depth, height, width; which entry, for longer arrays; -1: none */
    int64_t got, limit;      /* the value found and the one it broke; 0 when there is none              */
    char text[192];          /* one sentence, zero-terminated                                           */
} convt3d_error;

/* One entry of what follows the convolution: see WHAT FOLLOWS THE CONVOLUTION. */
typedef struct convt3d_op {
    int32_t kind;               /* CONVT3D_OP_...                                       */
    int32_t groups;             /* GROUP_NORM: 1 ... out_channels                       */
    double a, b;
    int64_t stride[5];          /* of the residual, elements: n, c, d, h, w; zero: dense */
} convt3d_op;

/* The problem. Zero-initialise it; the table above has every field. */
typedef struct convt3d_desc {
    int64_t batch, in_channels, out_channels, groups;
    int64_t in_size[3], kernel[3], stride[3], padding[3], output_padding[3], dilation[3];
    int64_t out_size[3];
    int32_t fixed_out_size;
    int32_t dtype, layout, device, math, threads;
    int64_t x_stride[5], y_stride[5], dy_stride[5], dx_stride[5];
    convt3d_op ops[CONVT3D_MAX_OPS];
    int64_t workspace_limit, alignment;
    int32_t accumulate, backward;           /* sums of CONVT3D_BACKWARD_... */
    int32_t cuda_arch;
    char force[32];
    int32_t reserved[15];
} convt3d_desc;

/* A validated problem with its kernel. Plain bytes of one size in every build; read it with convt3d_plan_info(). */
typedef struct convt3d_plan { uint64_t opaque[384]; } convt3d_plan;

/* The tensors of one entry of the list; NULL where the entry has none. */
typedef struct convt3d_op_io {
    const void *residual;                   /* desc.dtype                               */
    const void *scale, *shift;              /* float, for f64 double, as are those below */
    void *mean, *rstd;                      /* what the normalisation found: forward writes, backward reads */
    void *running_mean, *running_var;       /* read and written by forward              */
    void *d_residual, *d_scale, *d_shift;   /* gradients                                */
} convt3d_op_io;

/* The pointers of one call. Zero-initialise it. Device = CPU wants memory that the host can read. */
typedef struct convt3d_io {
    const void *x, *w, *bias;
    void *y;
    void *saved;                /* see BACKWARD: forward writes it, backward reads it   */
    const void *dy;
    void *dx, *dw, *dbias;      /* gradients; NULL: not computed                        */
    convt3d_op_io ops[CONVT3D_MAX_OPS];
    const void *w_packed;       /* instead of w: what convt3d_pack_weights() wrote ...  */
    uint64_t pack_tag;          /* ... and the tag it returned                          */
    void *workspace;            /* convt3d_run() only: convt3d() finds its own          */
    int64_t workspace_bytes;
    void *stream;               /* device = CUDA: the cudaStream_t; otherwise ignored    */
    void *alloc_context;        /* handed to CONVT3D_MALLOC and CONVT3D_FREE            */
} convt3d_io;

typedef struct convt3d_info {
    char kernel[32];            /* of y, of dx, or of dw and dbias where dx is not wanted                        */
    char weight_kernel[32];     /* of dw and dbias, where dx is wanted too                                       */
    int64_t out_size[3];
    int64_t workspace_bytes, packed_bytes;
    double flops;               /* 2 * products that land inside the output: nothing is counted for cropped taps */
    double bytes;               /* the large tensors that the pass reads or writes, and dbias, each of them once  */
    int32_t saves;              /* CONVT3D_SAVES_...: what forward keeps for backward                             */
    int32_t exact_slabs;        /* 1: convt3d_slab() pieces equal the whole bit for bit                          */
} convt3d_info;

CONVT3D_API convt3d_status convt3d(const convt3d_desc *desc, const convt3d_io *io, convt3d_error *error);
CONVT3D_API convt3d_status convt3d_backward(const convt3d_desc *desc, const convt3d_io *io, convt3d_error *error);

CONVT3D_API convt3d_status convt3d_plan_init(convt3d_plan *plan, const convt3d_desc *desc, int32_t pass,
                                             convt3d_error *error);
CONVT3D_API int64_t convt3d_workspace_size(const convt3d_plan *plan);   /* bytes; -1 for an invalid plan */
CONVT3D_API convt3d_status convt3d_run(const convt3d_plan *plan, const convt3d_io *io, convt3d_error *error);

/* Packing is legal with every kernel; where a kernel reads w as it is, the pack is a copy. w and packed are where the
 * plan's device reads them; stream as in convt3d_io. *tag is what io.pack_tag wants. */
CONVT3D_API int64_t convt3d_packed_size(const convt3d_plan *plan);      /* bytes; -1 for an invalid plan */
CONVT3D_API convt3d_status convt3d_pack_weights(const convt3d_plan *plan, const void *w, void *packed, uint64_t *tag,
                                                void *stream, convt3d_error *error);

CONVT3D_API convt3d_status convt3d_plan_info(const convt3d_plan *plan, convt3d_info *info, convt3d_error *error);
/* Writes at most size bytes with the terminating zero, as snprintf does; *needed (nullable) is the full length. */
CONVT3D_API convt3d_status convt3d_explain(const convt3d_desc *desc, int32_t pass, char *text, size_t size,
                                           size_t *needed, convt3d_error *error);

/* Number of CUDA devices. A status other than CONVT3D_OK says why there is none; *count is 0 then. */
CONVT3D_API convt3d_status convt3d_device_count(int32_t *count, convt3d_error *error);

CONVT3D_API convt3d_status convt3d_output_size(const convt3d_desc *desc, int64_t out_size[3], convt3d_error *error);

/* Sets desc->output_padding so that the output has the wanted size, as PyTorch's output_size argument does, and clears
 * fixed_out_size. */
CONVT3D_API convt3d_status convt3d_solve_output_padding(convt3d_desc *desc, const int64_t wanted[3],
                                                        convt3d_error *error);

/* The problem that computes outputs [begin, end) of one axis: *sub has the strides of the whole and reads inputs
 * [*in_begin, *in_end) of that axis. Call it with y + begin*y_stride[2+axis], x + in_begin*x_stride[2+axis], the
 * strides being those in *sub; residuals move as y does. Slabs of slabs are boxes. begin == end and an empty input
 * range are legal. */
CONVT3D_API convt3d_status convt3d_slab(const convt3d_desc *desc, int32_t axis, int64_t begin, int64_t end,
                                        convt3d_desc *sub, int64_t *in_begin, int64_t *in_end, convt3d_error *error);

/* ONNX ConvTranspose (opset 22). Fill desc with batch, channels, in_size, kernel (kernel_shape), stride, dilation and
 * groups; this adds auto_pad, pads, output_padding and output_shape, and sets padding and the fixed output size.
 * Where output_shape or SAME_* would need a negative total padding, the padding is 0 and the far end is bias, as in
 * onnxruntime. */
enum { CONVT3D_ONNX_NOTSET = 0, CONVT3D_ONNX_SAME_UPPER = 1, CONVT3D_ONNX_SAME_LOWER = 2, CONVT3D_ONNX_VALID = 3 };
typedef struct convt3d_onnx {
    int32_t auto_pad;           /* enum above */
    int32_t has_output_shape;
    int64_t pads[6];            /* begin of D, H, W, then end of D, H, W; may be negative */
    int64_t output_shape[3];    /* spatial axes only */
} convt3d_onnx;
CONVT3D_API convt3d_status convt3d_from_onnx(convt3d_desc *desc, const convt3d_onnx *onnx, convt3d_error *error);

/* Bit patterns of the 16-bit types; to nearest, ties to even, from any double. A NaN stays a (quiet) NaN. */
CONVT3D_API uint16_t convt3d_f16_from_double(double value);
CONVT3D_API uint16_t convt3d_bf16_from_double(double value);
CONVT3D_API double convt3d_double_from_f16(uint16_t bits);
CONVT3D_API double convt3d_double_from_bf16(uint16_t bits);

CONVT3D_API const char *convt3d_status_string(convt3d_status status);   /* "OUTPUT_PADDING_TOO_LARGE" */
CONVT3D_API const char *convt3d_version(void);
CONVT3D_API const char *convt3d_op_name(int32_t kind);                  /* "group_norm"; NULL for no entry */
CONVT3D_API int32_t convt3d_op_uses(int32_t kind);                      /* CONVT3D_USES_..., added up      */

/* Name of the index-th kernel of a device and pass, as desc.force takes it; NULL past the last. */
CONVT3D_API const char *convt3d_kernel_name(int32_t device, int32_t pass, int32_t index);

#ifdef __cplusplus
}
#endif
#endif /* CONVT3D_H */

#if defined(CONVT3D_IMPLEMENTATION) || defined(CONVT3D_BACKEND)
/* ====================================================================================================================
 * INTERNAL: what the back ends share with this file. cpu/ and cuda/ see it by defining CONVT3D_BACKEND.
 */
#ifndef CONVT3D__INTERNAL
#define CONVT3D__INTERNAL

#include <math.h>
#include <string.h>

#if defined(__GNUC__)
#  define CONVT3D__UNUSED __attribute__((unused))
#  define CONVT3D__HIDDEN __attribute__((visibility("hidden")))
#else
#  define CONVT3D__UNUSED
#  define CONVT3D__HIDDEN
#endif
#if defined(_WIN32)
#  undef CONVT3D__HIDDEN
#  define CONVT3D__HIDDEN
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* One axis of a validated problem. Outputs with the same (o + padding) mod stride are a phase. With g = gcd(stride,
 * dilation), a phase is reached only if g divides its residue r; then its taps are k = k0 + t*(stride/g) with
 * k0 = (r/g) * inverse(dilation/g) mod (stride/g), and output o reads input (o + padding - k0*dilation)/stride
 * - t*(dilation/g): inside a phase the operator is a dense correlation of unit stride. */
typedef struct convt3d__axis {
    int64_t in, out, kernel, stride, padding, dilation;
    int64_t gcd;            /* of stride and dilation                                    */
    int64_t tap_step;       /* stride/gcd:   from one tap of a phase to the next, in k   */
    int64_t in_step;        /* dilation/gcd: from one tap of a phase to the next, in i   */
    int64_t inverse;        /* of in_step modulo tap_step                                */
} convt3d__axis;

/* Taps k, k + tap_step, ... (count of them) of one phase; tap t reads input i - t*in_step. */
typedef struct convt3d__taps { int64_t k, i, count; } convt3d__taps;

/* What choosing a kernel leaves in a plan. */
typedef struct convt3d__choice {
    int32_t row;                        /* index into the back ends */
    int64_t row_workspace, packed;      /* bytes */
    uint64_t pack_variant;
    int64_t state[40];
} convt3d__choice;

typedef struct convt3d__plan {
    uint64_t magic;
    convt3d_desc desc;                  /* every default filled in */
    int32_t pass, row;                  /* CONVT3D_FORWARD or the gradients wanted; index into the back ends */
    convt3d__axis axis[3];
    int64_t in_group, out_group;        /* channels of one group */
    int64_t taps;                       /* of the whole kernel */
    int64_t x_count, w_count, y_count;  /* elements */
    int64_t x_extent, y_extent, dy_extent, dx_extent;   /* elements from the first to one past the last, by strides */
    int64_t residual_extent[CONVT3D_MAX_OPS];
    int32_t op_count;                   /* entries of the list */
    int32_t fused;                      /* those that the kernel applies itself: none, or all before the first norm  */
    int32_t stored;                     /* type that the kernel stores: desc.dtype if all are fused, else wide       */
    int32_t staged;                     /* 1: it stores in the workspace or in saved, dense; 0: in y                 */
    int32_t between;                    /* type of what one pass over the output leaves for the next                 */
    int32_t saves, curved;              /* CONVT3D_SAVES_...; the last entry whose slope wants its argument, or -1   */
    int64_t stored_stride[5];           /* of what is stored, elements                                           */
    int64_t row_workspace, statistics, stage;   /* bytes of the workspace's three parts, in this order              */
    int64_t workspace, packed;          /* bytes */
    uint64_t pack_tag, pack_variant;    /* variant: set by the back end where one kernel packs in several ways */
    int32_t cuda_device, cuda_arch;     /* ordinal, -1 when planned for desc.cuda_arch; 10*major + minor */
    int32_t multiprocessors;
    int64_t state[40];                  /* the chosen back end's own, filled by its refuses() */
    convt3d__choice weights;            /* backward: the kernel of dw and dbias */
    convt3d__choice forward;            /* of the row that takes dx for a forward problem: the kernel of that */
} convt3d__plan;

/* One kernel of one device and pass. refuses() returns 0 if it takes the problem, and may then fill plan->state and
 * plan->pack_variant; otherwise it writes why. pack == NULL: the pack is w itself, copied on the host.
 * CONVT3D_FORWARD: computes the convolution and the first plan->fused entries of the list, and stores elements of
 * plan->stored at io->y with desc.y_stride; the rest of the list follows in passes of its device.
 * CONVT3D_BACKWARD_X: io->dx from io->dy and w. CONVT3D_BACKWARD_W: io->dw and io->dbias, of which one may be NULL,
 * from io->x and io->dy. For both, dy is the gradient of the convolution's output, of desc.dtype with desc.dy_stride;
 * the list is taken care of (op_count is 0), and desc.accumulate says what is to be added to. */
typedef struct convt3d__backend {
    const char *name;
    int32_t device, pass, exact_slabs;
    int32_t (*refuses)(convt3d__plan *plan, char why[96]);
    double (*cost)(const convt3d__plan *plan);          /* estimated seconds */
    int64_t (*workspace)(const convt3d__plan *plan);    /* bytes */
    int64_t (*packed)(const convt3d__plan *plan);       /* bytes */
    convt3d_status (*pack)(const convt3d__plan *plan, const void *w, void *packed, void *stream, convt3d_error *error);
    convt3d_status (*run)(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error);
    convt3d_status (*ready)(const convt3d__plan *plan, convt3d_error *error);   /* once chosen; NULL: nothing to do */
    int32_t fuses;                      /* CONVT3D__FUSES_... */
} convt3d__backend;

/* LIST: it applies the entries before the first normalisation; WIDE: plan->stored may differ from desc.dtype; JOINT: of
 * the rows of one name for dx and dw: run() of either makes all that the plan's pass says, from one reading of dy.
 * LEAVES_RESIDUALS: a list is applied up to the first residual alone, as a pass over y is faster from there on.
 * LEAVES_DY: of a row for dx and one for dw: where dx came first, dw's run() is told so by that bit of its plan's pass,
 * and finds in the workspace what dx's left there of dy. */
enum { CONVT3D__FUSES_LIST = 1, CONVT3D__FUSES_WIDE = 2, CONVT3D__JOINT = 4, CONVT3D__LEAVES_RESIDUALS = 8,
       CONVT3D__LEAVES_DY = 16 };

#ifdef CONVT3D_CPU_FAST
extern CONVT3D__HIDDEN const convt3d__backend convt3d__cpu_backends[];
extern CONVT3D__HIDDEN const int32_t convt3d__cpu_backend_count;
#endif
#ifdef CONVT3D_CUDA
extern CONVT3D__HIDDEN const convt3d__backend convt3d__cuda_backends[];
extern CONVT3D__HIDDEN const int32_t convt3d__cuda_backend_count;
/* What the easy call on CUDA needs of this file, handed over so that the implementation may be static. */
typedef struct convt3d__host_calls {
    convt3d_status (*plan_init)(convt3d_plan *plan, const convt3d_desc *desc, int32_t pass, convt3d_error *error);
    convt3d_status (*check_io)(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error);
    convt3d_status (*check_backward_io)(const convt3d__plan *plan, const convt3d_io *io, convt3d_error *error);
    convt3d_status (*run)(const convt3d_plan *plan, const convt3d_io *io, convt3d_error *error);
    convt3d_status (*slab)(const convt3d_desc *desc, int32_t axis, int64_t begin, int64_t end, convt3d_desc *sub,
                           int64_t *in_begin, int64_t *in_end, convt3d_error *error);
} convt3d__host_calls;
/* Fills in the plan's card; the easy call on any memory; the number of cards; the card in words. */
CONVT3D__HIDDEN convt3d_status convt3d__cuda_find(convt3d__plan *plan, convt3d_error *error);
CONVT3D__HIDDEN convt3d_status convt3d__cuda_call(const convt3d_desc *desc, const convt3d_io *io,
                                                  const convt3d__host_calls *calls, convt3d_error *error);
/* The easy call of the backward pass, on any memory. */
CONVT3D__HIDDEN convt3d_status convt3d__cuda_backward(const convt3d_desc *desc, const convt3d_io *io, int32_t pass,
                                                      const convt3d__host_calls *calls, convt3d_error *error);
/* The list taken back from io->dy to g (dense, desc.dtype; NULL: not wanted) and to the gradients of its tensors, as
 * convt3d__list_backward() does on the CPU, with the same parts of the workspace. */
CONVT3D__HIDDEN convt3d_status convt3d__cuda_list_backward(const convt3d__plan *plan, const convt3d_io *io, void *g,
                                                           convt3d_error *error);
/* w as convt3d__flip() writes it, on the device. */
CONVT3D__HIDDEN convt3d_status convt3d__cuda_flip(const convt3d__plan *plan, const void *w, void *flipped, void *stream,
                                                  convt3d_error *error);
/* Entries from plan->desc.ops[index] to convt3d__pass_end(), from stored to stored or y; and the loading of what all
 * passes of the plan, forward or backward, need. */
CONVT3D__HIDDEN convt3d_status convt3d__cuda_pass(const convt3d__plan *plan, const convt3d_io *io, int32_t index,
                                                  convt3d_error *error);
CONVT3D__HIDDEN convt3d_status convt3d__cuda_pass_ready(const convt3d__plan *plan, convt3d_error *error);
CONVT3D__HIDDEN convt3d_status convt3d__cuda_count(int32_t *count, convt3d_error *error);
CONVT3D__HIDDEN void convt3d__cuda_describe(const convt3d__plan *plan, char name[256]);
#endif

CONVT3D__UNUSED static int64_t convt3d__min(int64_t a, int64_t b) { return a < b ? a : b; }
CONVT3D__UNUSED static int64_t convt3d__max(int64_t a, int64_t b) { return a > b ? a : b; }

/* Rounding toward minus and plus infinity for b > 0: C's / and % round toward zero. */
CONVT3D__UNUSED static int64_t convt3d__floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
CONVT3D__UNUSED static int64_t convt3d__ceil_div(int64_t a, int64_t b) { return a / b + (a % b > 0); }
CONVT3D__UNUSED static int64_t convt3d__floor_mod(int64_t a, int64_t b) { return a % b + (a % b < 0 ? b : 0); }

/* a*b mod m for 0 <= a, b < m, for any m: beyond 2^31 by doubling, since the product would overflow. */
CONVT3D__UNUSED static int64_t convt3d__mul_mod(int64_t a, int64_t b, int64_t m)
{
    int64_t product = 0;
    if (m <= INT32_MAX) return a * b % m;
    for (; b > 0; b >>= 1) {
        if (b & 1) product = product >= m - a ? product - (m - a) : product + a;
        a = a >= m - a ? a - (m - a) : a + a;
    }
    return product;
}

/* First tap of the phase of output o, or -1 when no tap of the kernel reaches that phase. */
CONVT3D__UNUSED static int64_t convt3d__first_tap(const convt3d__axis *axis, int64_t o)
{
    int64_t residue = convt3d__floor_mod(o + axis->padding, axis->stride), k;
    if (residue % axis->gcd != 0) return -1;
    k = convt3d__mul_mod(residue / axis->gcd, axis->inverse, axis->tap_step);
    return k < axis->kernel ? k : -1;
}

/* The taps that reach any of the outputs o, o + stride, ..., o + (columns - 1)*stride. i belongs to output o: it may
 * lie outside the input there, and inside for a later column. */
CONVT3D__UNUSED static convt3d__taps convt3d__taps_of(const convt3d__axis *axis, int64_t o, int64_t columns)
{
    convt3d__taps taps = {0, 0, 0};
    int64_t k = convt3d__first_tap(axis, o), i, first, last;
    if (k < 0) return taps;
    i = (o + axis->padding - k * axis->dilation) / axis->stride;    /* exact */
    first = convt3d__max(0, convt3d__ceil_div(i - (axis->in - 1), axis->in_step));
    last = convt3d__min((axis->kernel - 1 - k) / axis->tap_step,
                        convt3d__floor_div(i + columns - 1, axis->in_step));
    if (first > last) return taps;
    taps.k = k + first * axis->tap_step;
    taps.i = i - first * axis->in_step;
    taps.count = last - first + 1;
    return taps;
}

CONVT3D__UNUSED static int64_t convt3d__element_size(int32_t dtype)
{
    return dtype == CONVT3D_F64 ? 8 : dtype == CONVT3D_F32 ? 4 : 2;
}

/* The accumulator's type, in which entries of the list and their small tensors are. */
CONVT3D__UNUSED static int32_t convt3d__wide(int32_t dtype) { return dtype == CONVT3D_F64 ? CONVT3D_F64 : CONVT3D_F32; }

/* CONVT3D_USES_... of an entry, 0 for none. */
CONVT3D__UNUSED static int32_t convt3d__op_uses(int32_t kind)
{
    static const int32_t table[] = {
#define CONVT3D__X(id, name, uses) uses,
        CONVT3D_OPS(CONVT3D__X)
#undef CONVT3D__X
    };
    return kind >= 0 && kind < (int32_t)CONVT3D_OP_COUNT ? table[kind] : 0;
}

/* The next entry from `index` on that normalises, op_count where there is none. */
CONVT3D__UNUSED static int32_t convt3d__next_norm(const convt3d__plan *p, int32_t index)
{
    while (index < p->op_count && p->desc.ops[index].kind != CONVT3D_OP_GROUP_NORM &&
           p->desc.ops[index].kind != CONVT3D_OP_BATCH_NORM) index++;
    return index;
}

/* Where the pass that begins with entry `index` ends: it has one normalisation at most, and what stands before it is
 * applied again whenever the stored values are read. */
CONVT3D__UNUSED static int32_t convt3d__pass_end(const convt3d__plan *p, int32_t index)
{
    index = convt3d__next_norm(p, index);
    return index < p->op_count ? convt3d__next_norm(p, index + 1) : index;
}

/* Whether the slope of an entry is no constant, so that going back through it wants a value. */
CONVT3D__UNUSED static int convt3d__is_curved(int32_t kind)
{
    return kind != CONVT3D_OP_AFFINE && kind != CONVT3D_OP_CHANNEL_AFFINE && kind != CONVT3D_OP_ADD &&
           kind != CONVT3D_OP_MULTIPLY;
}

/* Whether the slope of an entry follows from what it gives. */
CONVT3D__UNUSED static int convt3d__slope_from_output(const convt3d_op *op)
{
    switch (op->kind) {
    case CONVT3D_OP_RELU: case CONVT3D_OP_RELU6: case CONVT3D_OP_SIGMOID: case CONVT3D_OP_TANH: return 1;
    case CONVT3D_OP_LEAKY_RELU: return op->a >= 0;
    case CONVT3D_OP_ELU: return op->a > 0;
    default: return 0;
    }
}

/* What the forward pass keeps for backward passes of these bits: CONVT3D_SAVES_...; *curved is the last entry for whose
 * gradient the value before it is wanted, -1 for none. */
CONVT3D__UNUSED static int32_t convt3d__saves_for(const convt3d__plan *p, int32_t bits, int32_t *curved)
{
    int32_t i, first = -1;
    *curved = -1;
    for (i = 0; i < p->op_count && bits != 0; i++) {
        int32_t kind = p->desc.ops[i].kind;
        int has_gradient = kind == CONVT3D_OP_CHANNEL_AFFINE || kind == CONVT3D_OP_MULTIPLY;
        if (!convt3d__is_curved(kind) && !(has_gradient && (bits & CONVT3D_BACKWARD_OPS))) continue;
        if (first < 0) first = i;
        *curved = i;
    }
    if (first < 0) return CONVT3D_SAVES_NOTHING;
    if (first == p->op_count - 1 && convt3d__slope_from_output(&p->desc.ops[first])) return CONVT3D_SAVES_OUTPUT;
    return CONVT3D_SAVES_CONVOLUTION;
}

/* The parts, of rows (d, h), in which a channel is looked at for its mean and variance: by the shape alone. */
CONVT3D__UNUSED static int64_t convt3d__moment_parts(const convt3d__plan *p)
{
    int64_t rows = p->axis[0].out * p->axis[1].out;
    return convt3d__max(1, convt3d__min(rows, convt3d__ceil_div(rows * p->axis[2].out, 16384)));
}

/* How many means are taken of the output: GROUP_NORM's of every sample and group, BATCH_NORM's of every channel. */
CONVT3D__UNUSED static int64_t convt3d__norm_sets(const convt3d__plan *p, int32_t index)
{
    const convt3d_op *op = &p->desc.ops[index];
    return op->kind == CONVT3D_OP_GROUP_NORM ? p->desc.batch * op->groups : p->desc.out_channels;
}

/* Entries before `index` that have a scale: where in the workspace the sums of the index-th are. */
CONVT3D__UNUSED static int32_t convt3d__scale_slot(const convt3d__plan *p, int32_t index)
{
    int32_t i, slot = 0;
    for (i = 0; i < index; i++) slot += (convt3d__op_uses(p->desc.ops[i].kind) & CONVT3D_USES_SCALE) != 0;
    return slot;
}

/* Where the workspace's parts for a normalisation begin, aligned for every use; part 0 statistics, 1 the stage. */
CONVT3D__UNUSED static int64_t convt3d__stage_alignment(const convt3d__plan *p)
{
    return convt3d__max(256, p->desc.alignment);
}

CONVT3D__UNUSED static char *convt3d__workspace_part(const convt3d__plan *p, void *workspace, int part)
{
    uintptr_t at = (uintptr_t)workspace + (uintptr_t)p->row_workspace, unit = (uintptr_t)convt3d__stage_alignment(p);
    at = (at + unit - 1) / unit * unit + (part ? (uintptr_t)p->statistics : 0);
    return (char *)((at + unit - 1) / unit * unit);
}

/* What the pass over the output that begins with entry `index` reads, and what a pass but the last writes for the next;
 * both have plan->stored_stride. */
CONVT3D__UNUSED static void *convt3d__stored_at(const convt3d__plan *p, const convt3d_io *io, int32_t index)
{
    if (index == 0 && p->saves == CONVT3D_SAVES_CONVOLUTION) return io->saved;
    return p->staged ? convt3d__workspace_part(p, io->workspace, 1) : (char *)io->y;
}

CONVT3D__UNUSED static int32_t convt3d__stored_dtype(const convt3d__plan *p, int32_t index)
{
    return index == 0 ? p->stored : p->between;
}

/* log(1 + exp(v)) for any v. */
CONVT3D__UNUSED static double convt3d__softplus(double v) { return (v > 0 ? v : 0) + log1p(exp(-fabs(v))); }

/* v*(1 + tanh(u))/2 = v/(1 + exp(-2u)), without cancellation. */
CONVT3D__UNUSED static double convt3d__gelu_tanh(double v)
{
    double u = 0.7978845608028654 * (v + 0.044715 * v * v * v);         /* sqrt(2/pi) */
    return v / (1 + exp(-2 * u));
}

CONVT3D__UNUSED static double convt3d__hardsigmoid(double v)
{
    double t = v + 3 < 0 ? 0 : v + 3;
    return (t > 6 ? 6 : t) / 6;
}

/* One entry that looks at one value alone. Comparisons are such that NaN stays NaN. */
CONVT3D__UNUSED static void convt3d__apply_function(int32_t kind, double a, double b, double *v, int64_t n)
{
    int64_t j;
    switch (kind) {
    case CONVT3D_OP_AFFINE:      for (j = 0; j < n; j++) v[j] = a * v[j] + b;  break;
    case CONVT3D_OP_RELU6:       a = 0;  b = 6;             /* a clamp */
        /* fall through */
    case CONVT3D_OP_CLAMP:
        for (j = 0; j < n; j++) { double t = v[j] < a ? a : v[j];  v[j] = t > b ? b : t; }
        break;
    case CONVT3D_OP_RELU:        for (j = 0; j < n; j++) v[j] = v[j] < 0 ? 0 : v[j];  break;
    case CONVT3D_OP_LEAKY_RELU:  for (j = 0; j < n; j++) v[j] = v[j] > 0 ? v[j] : a * v[j];  break;
    case CONVT3D_OP_SILU:        for (j = 0; j < n; j++) v[j] = v[j] / (1 + exp(-v[j]));  break;
    case CONVT3D_OP_SIGMOID:     for (j = 0; j < n; j++) v[j] = 1 / (1 + exp(-v[j]));  break;
    case CONVT3D_OP_TANH:        for (j = 0; j < n; j++) v[j] = tanh(v[j]);  break;
    case CONVT3D_OP_GELU:        for (j = 0; j < n; j++) v[j] = 0.5 * v[j] * erfc(-0.7071067811865476 * v[j]);  break;
    case CONVT3D_OP_GELU_TANH:   for (j = 0; j < n; j++) v[j] = convt3d__gelu_tanh(v[j]);  break;
    case CONVT3D_OP_HARDSWISH:   for (j = 0; j < n; j++) v[j] = v[j] * convt3d__hardsigmoid(v[j]);  break;
    case CONVT3D_OP_HARDSIGMOID: for (j = 0; j < n; j++) v[j] = convt3d__hardsigmoid(v[j]);  break;
    case CONVT3D_OP_ELU:         for (j = 0; j < n; j++) v[j] = v[j] > 0 ? v[j] : a * expm1(v[j]);  break;
    case CONVT3D_OP_SOFTPLUS:
        for (j = 0; j < n; j++) v[j] = a * v[j] > b ? v[j] : convt3d__softplus(a * v[j]) / a;
        break;
    case CONVT3D_OP_MISH:        for (j = 0; j < n; j++) v[j] = v[j] * tanh(convt3d__softplus(v[j]));  break;
    default: break;
    }
}

/* Text that ends quietly where its room does; length goes on counting, as snprintf's does. */
typedef struct convt3d__text { char *at; size_t room, length; } convt3d__text;

CONVT3D__UNUSED static void convt3d__put(convt3d__text *text, const char *s)
{
    for (; *s; s++, text->length++)
        if (text->length + 1 < text->room) text->at[text->length] = *s;
    if (text->room > 0) text->at[text->length < text->room ? text->length : text->room - 1] = 0;
}

CONVT3D__UNUSED static void convt3d__put_int(convt3d__text *text, int64_t value)
{
    char digits[24];
    size_t i = sizeof digits;
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    digits[--i] = 0;
    do digits[--i] = (char)('0' + (char)(rest % 10)); while ((rest /= 10) > 0);
    if (value < 0) digits[--i] = '-';
    convt3d__put(text, digits + i);
}

CONVT3D__UNUSED static const char *convt3d__message(convt3d_status status)
{
    static const char *const messages[] = {
#define CONVT3D__X(id, message) message,
        CONVT3D_STATUSES(CONVT3D__X)
#undef CONVT3D__X
    };
    return messages[status];
}

/* Fills *error (nullable) from the status's message and returns the status. */
CONVT3D__UNUSED static convt3d_status convt3d__fail(convt3d_error *error, convt3d_status status, const char *field,
                                                    int32_t axis, int64_t got, int64_t limit, const char *detail)
{
    convt3d__text text;
    const char *m;
    char letter[2] = {0, 0};
    if (!error) return status;
    error->status = status;  error->field = field;  error->axis = axis;  error->got = got;  error->limit = limit;
    text.at = error->text;  text.room = sizeof error->text;  text.length = 0;
    for (m = convt3d__message(status); *m; m++) {
        if (*m != '%') { letter[0] = *m;  convt3d__put(&text, letter);  continue; }
        switch (*++m) {
        case 'f': convt3d__put(&text, field);  break;
        case 's': convt3d__put(&text, detail);  break;
        case 'a': convt3d__put_int(&text, axis);  break;
        case 'g': convt3d__put_int(&text, got);  break;
        default:  convt3d__put_int(&text, limit);  break;
        }
    }
    return status;
}

CONVT3D__UNUSED static convt3d_status convt3d__ok(convt3d_error *error)
{
    return convt3d__fail(error, CONVT3D_OK, "", -1, 0, 0, "");
}

#ifdef __cplusplus
}
#endif
#endif /* CONVT3D__INTERNAL */
#endif

#if defined(CONVT3D_IMPLEMENTATION) && !defined(CONVT3D__IMPLEMENTED)
#define CONVT3D__IMPLEMENTED
/* ====================================================================================================================
 * IMPLEMENTATION
 */
#if !defined(CONVT3D_MALLOC) && !defined(CONVT3D_FREE)
#  include <stdlib.h>
#  define CONVT3D_MALLOC(context, bytes) ((void)(context), malloc(bytes))
#  define CONVT3D_FREE(context, pointer) ((void)(context), free(pointer))
#elif !defined(CONVT3D_MALLOC) || !defined(CONVT3D_FREE)
#  error "convt3d: define both CONVT3D_MALLOC and CONVT3D_FREE, or neither"
#endif

#ifdef _OPENMP
#  include <omp.h>
#endif

#if defined(__cplusplus) && (defined(__GNUC__) || defined(_MSC_VER))
#  define CONVT3D__RESTRICT __restrict
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 199901L
#  define CONVT3D__RESTRICT restrict
#else
#  define CONVT3D__RESTRICT
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define CONVT3D__PLAN_MAGIC UINT64_C(0x6433747670c0fe01)
typedef char convt3d__plan_fits[sizeof(convt3d__plan) <= sizeof(convt3d_plan) ? 1 : -1];

/* --------------------------------------------------------------------------------------------------------------------
 * The 16-bit types
 */
/* value rounded to a type of 1 + exponent_bits + mantissa_bits bits, to nearest, ties to even. */
static uint16_t convt3d__narrow(double value, int exponent_bits, int mantissa_bits)
{
    uint64_t bits, sign, mantissa, kept, dropped, half, infinity;
    int exponent, shift = 52 - mantissa_bits;
    memcpy(&bits, &value, sizeof bits);
    sign = bits >> 63 << 15;
    infinity = ((UINT64_C(1) << exponent_bits) - 1) << mantissa_bits;
    mantissa = bits & ((UINT64_C(1) << 52) - 1);
    if ((bits >> 52 & 0x7ff) == 0x7ff)          /* infinity, or NaN made quiet */
        return (uint16_t)(sign | infinity | (mantissa ? mantissa >> shift | UINT64_C(1) << (mantissa_bits - 1) : 0));
    exponent = (int)(bits >> 52 & 0x7ff) - 1023 + (1 << (exponent_bits - 1)) - 1;
    if (exponent >= 1) {
        mantissa |= (uint64_t)exponent << 52;   /* a carry out of the mantissa raises the exponent */
    } else {                                    /* subnormal in the target: the leading one becomes explicit */
        mantissa |= UINT64_C(1) << 52;
        shift = shift + 1 - exponent > 62 ? 62 : shift + 1 - exponent;
    }
    kept = mantissa >> shift;
    dropped = mantissa & ((UINT64_C(1) << shift) - 1);
    half = UINT64_C(1) << (shift - 1);
    if (dropped > half || (dropped == half && (kept & 1))) kept++;
    return (uint16_t)(sign | (kept < infinity ? kept : infinity));
}

CONVT3D_API uint16_t convt3d_f16_from_double(double value) { return convt3d__narrow(value, 5, 10); }
CONVT3D_API uint16_t convt3d_bf16_from_double(double value) { return convt3d__narrow(value, 8, 7); }

CONVT3D_API double convt3d_double_from_f16(uint16_t bits)
{
    uint64_t sign = (uint64_t)(bits >> 15) << 63, exponent = bits >> 10 & 0x1f, mantissa = bits & 0x3ff, wide;
    double value;
    if (exponent == 0) {                        /* zero or subnormal: mantissa * 2^-24 */
        value = (double)mantissa * (1.0 / 16777216.0);
        return sign ? -value : value;
    }
    wide = sign | (exponent == 0x1f ? UINT64_C(0x7ff) : exponent + 1023 - 15) << 52 | mantissa << 42;
    memcpy(&value, &wide, sizeof value);
    return value;
}

CONVT3D_API double convt3d_double_from_bf16(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;       /* bf16 is the upper half of f32 */
    float value;
    memcpy(&value, &wide, sizeof value);
    return (double)value;
}

/* --------------------------------------------------------------------------------------------------------------------
 * Validation: from a desc to a geometry in which no later product can overflow
 */
/* *product = a*b, *sum = a+b; 0 where 64 bits do not hold it. */
static int convt3d__mul(int64_t a, int64_t b, int64_t *product)     /* a, b >= 0 */
{
    if (b != 0 && a > INT64_MAX / b) return 0;
    *product = a * b;
    return 1;
}

static int convt3d__add(int64_t a, int64_t b, int64_t *sum)
{
    if (b > 0 ? a > INT64_MAX - b : a < INT64_MIN - b) return 0;
    *sum = a + b;
    return 1;
}

static int64_t convt3d__gcd(int64_t a, int64_t b)
{
    while (b != 0) { int64_t r = a % b;  a = b;  b = r; }
    return a;
}

/* The x in [0, m) with a*x = 1 mod m, for coprime a and m: Euclid's extended algorithm. */
static int64_t convt3d__inverse(int64_t a, int64_t m)
{
    int64_t r0 = m, r1 = a % m, x0 = 0, x1 = m > 1 ? 1 : 0;
    while (r1 > 1) {
        int64_t q = r0 / r1, r = r0 - q * r1, x = x0 - q * x1;      /* |x| stays below m */
        r0 = r1;  r1 = r;  x0 = x1;  x1 = x;
    }
    return convt3d__floor_mod(x1, m);
}

static convt3d_status convt3d__check_enums(const convt3d_desc *d, convt3d_error *e)
{
    int32_t i;
    if (d->dtype < 0 || d->dtype > CONVT3D_BF16)
        return convt3d__fail(e, CONVT3D_DTYPE_UNKNOWN, "dtype", -1, d->dtype, CONVT3D_BF16, "");
    if (d->layout < 0 || d->layout > CONVT3D_NDHWC)
        return convt3d__fail(e, CONVT3D_LAYOUT_UNKNOWN, "layout", -1, d->layout, CONVT3D_NDHWC, "");
    if (d->device < 0 || d->device > CONVT3D_DEVICE_CUDA)
        return convt3d__fail(e, CONVT3D_DEVICE_UNKNOWN, "device", -1, d->device, CONVT3D_DEVICE_CUDA, "");
    if (d->math < 0 || d->math > CONVT3D_TF32)
        return convt3d__fail(e, CONVT3D_MATH_UNKNOWN, "math", -1, d->math, CONVT3D_TF32, "");
    if (d->fixed_out_size < 0 || d->fixed_out_size > 1)
        return convt3d__fail(e, CONVT3D_FLAG_INVALID, "fixed_out_size", -1, d->fixed_out_size, 1, "");
    if (d->accumulate < 0 || d->accumulate > CONVT3D_BACKWARD)
        return convt3d__fail(e, CONVT3D_GRADIENT_BITS, "accumulate", -1, d->accumulate, CONVT3D_BACKWARD, "");
    if (d->backward < 0 || d->backward > CONVT3D_BACKWARD)
        return convt3d__fail(e, CONVT3D_GRADIENT_BITS, "backward", -1, d->backward, CONVT3D_BACKWARD, "");
    for (i = 0; i < (int32_t)(sizeof d->reserved / sizeof d->reserved[0]); i++)
        if (d->reserved[i] != 0)
            return convt3d__fail(e, CONVT3D_RESERVED_NOT_ZERO, "reserved", i, d->reserved[i], 0, "");
    return CONVT3D_OK;
}

static convt3d_status convt3d__check_options(convt3d_desc *d, convt3d_error *e)
{
    int64_t size = convt3d__element_size(d->dtype);
    if (d->threads < 0) return convt3d__fail(e, CONVT3D_THREADS_NEGATIVE, "threads", -1, d->threads, 0, "");
    if (d->workspace_limit < 0)
        return convt3d__fail(e, CONVT3D_WORKSPACE_LIMIT_NEGATIVE, "workspace_limit", -1, d->workspace_limit, 0, "");
    if (d->alignment == 0) d->alignment = 16;
    if (d->alignment < size || (d->alignment & (d->alignment - 1)) != 0)
        return convt3d__fail(e, CONVT3D_ALIGNMENT_INVALID, "alignment", -1, d->alignment, size, "");
    if (d->cuda_arch < 0) return convt3d__fail(e, CONVT3D_CUDA_ARCH_NEGATIVE, "cuda_arch", -1, d->cuda_arch, 0, "");
    if (!memchr(d->force, 0, sizeof d->force))
        return convt3d__fail(e, CONVT3D_FORCE_NOT_TERMINATED, "force", -1, 0, (int64_t)sizeof d->force, "");
    return CONVT3D_OK;
}

static convt3d_status convt3d__check_op(const convt3d_desc *d, int32_t i, convt3d_error *e)
{
    const convt3d_op *op = &d->ops[i];
    int32_t uses = convt3d__op_uses(op->kind), s;
    const char *name = convt3d_op_name(op->kind);
    if (!name) return convt3d__fail(e, CONVT3D_OP_UNKNOWN, "ops", i, op->kind, CONVT3D_OP_COUNT - 1, "");
    if (!(uses & CONVT3D_USES_A) && op->a != 0)
        return convt3d__fail(e, CONVT3D_OP_PARAMETER_UNUSED, "a", i, 0, 0, name);
    if (!(uses & CONVT3D_USES_B) && op->b != 0)
        return convt3d__fail(e, CONVT3D_OP_PARAMETER_UNUSED, "b", i, 0, 0, name);
    if (!(uses & CONVT3D_USES_GROUPS) && op->groups != 0)
        return convt3d__fail(e, CONVT3D_OP_PARAMETER_UNUSED, "groups", i, op->groups, 0, name);
    for (s = 0; s < 5; s++) {
        if (!(uses & CONVT3D_USES_RESIDUAL) && op->stride[s] != 0)
            return convt3d__fail(e, CONVT3D_OP_PARAMETER_UNUSED, "stride", i, op->stride[s], 0, name);
        if (op->stride[s] < 0) return convt3d__fail(e, CONVT3D_OP_STRIDE_NEGATIVE, "stride", i, op->stride[s], 0, "");
    }
    if (op->a != op->a) return convt3d__fail(e, CONVT3D_OP_PARAMETER, "a", i, 0, 0, "a number, not NaN");
    if (op->b != op->b) return convt3d__fail(e, CONVT3D_OP_PARAMETER, "b", i, 0, 0, "a number, not NaN");
    if (op->kind == CONVT3D_OP_SOFTPLUS && !(op->a > 0))
        return convt3d__fail(e, CONVT3D_OP_PARAMETER, "a", i, 0, 0, "positive: it is softplus's beta");
    if ((uses & CONVT3D_USES_STATISTICS) && !(op->a >= 0))
        return convt3d__fail(e, CONVT3D_OP_PARAMETER, "a", i, 0, 0, "at least 0: it is the normalisation's eps");
    if (op->kind == CONVT3D_OP_GROUP_NORM && (op->groups < 1 || d->out_channels % op->groups != 0))
        return convt3d__fail(e, CONVT3D_OP_GROUPS, "groups", i, op->groups, d->out_channels, "");
    return CONVT3D_OK;
}

/* The list: entries up to the first of kind END, zeros after it. */
static convt3d_status convt3d__check_ops(convt3d__plan *p, convt3d_error *e)
{
    convt3d_status status;
    convt3d_op none;
    int32_t i;
    memset(&none, 0, sizeof none);
    for (i = 0; i < CONVT3D_MAX_OPS && p->desc.ops[i].kind != CONVT3D_OP_END; i++)
        if ((status = convt3d__check_op(&p->desc, i, e)) != CONVT3D_OK) return status;
    p->op_count = i;
    for (; i < CONVT3D_MAX_OPS; i++)
        if (memcmp(&p->desc.ops[i], &none, sizeof none) != 0)
            return convt3d__fail(e, CONVT3D_OP_AFTER_END, "ops", i, p->desc.ops[i].kind, 0, "");
    return CONVT3D_OK;
}

static convt3d_status convt3d__check_channels(convt3d_desc *d, convt3d_error *e)
{
    if (d->batch < 0) return convt3d__fail(e, CONVT3D_BATCH_NEGATIVE, "batch", -1, d->batch, 0, "");
    if (d->in_channels < 1)
        return convt3d__fail(e, CONVT3D_IN_CHANNELS_NOT_POSITIVE, "in_channels", -1, d->in_channels, 1, "");
    if (d->out_channels < 1)
        return convt3d__fail(e, CONVT3D_OUT_CHANNELS_NOT_POSITIVE, "out_channels", -1, d->out_channels, 1, "");
    if (d->groups < 0) return convt3d__fail(e, CONVT3D_GROUPS_NEGATIVE, "groups", -1, d->groups, 0, "");
    if (d->groups == 0) d->groups = 1;
    if (d->in_channels % d->groups != 0)
        return convt3d__fail(e, CONVT3D_GROUPS_DIVIDE_IN, "groups", -1, d->groups, d->in_channels, "");
    if (d->out_channels % d->groups != 0)
        return convt3d__fail(e, CONVT3D_GROUPS_DIVIDE_OUT, "groups", -1, d->groups, d->out_channels, "");
    return CONVT3D_OK;
}

/* The rules of one axis that look at each field alone; fills in the defaults. */
static convt3d_status convt3d__check_axis(convt3d_desc *d, int32_t a, convt3d_error *e)
{
    int64_t least = d->fixed_out_size ? 0 : 1, reach;
    if (d->in_size[a] < least)
        return convt3d__fail(e, CONVT3D_IN_SIZE_TOO_SMALL, "in_size", a, d->in_size[a], least, "");
    if (d->kernel[a] < 1) return convt3d__fail(e, CONVT3D_KERNEL_NOT_POSITIVE, "kernel", a, d->kernel[a], 1, "");
    if (d->stride[a] < 0) return convt3d__fail(e, CONVT3D_STRIDE_NEGATIVE, "stride", a, d->stride[a], 0, "");
    if (d->dilation[a] < 0) return convt3d__fail(e, CONVT3D_DILATION_NEGATIVE, "dilation", a, d->dilation[a], 0, "");
    if (d->stride[a] == 0) d->stride[a] = 1;
    if (d->dilation[a] == 0) d->dilation[a] = 1;
    reach = convt3d__max(d->stride[a], d->dilation[a]);
    if (d->output_padding[a] < 0)
        return convt3d__fail(e, CONVT3D_OUTPUT_PADDING_NEGATIVE, "output_padding", a, d->output_padding[a], 0, "");
    if (d->output_padding[a] != 0 && d->fixed_out_size)
        return convt3d__fail(e, CONVT3D_OUTPUT_PADDING_AND_OUT_SIZE, "output_padding", a, d->output_padding[a], 0, "");
    if (d->output_padding[a] >= reach)
        return convt3d__fail(e, CONVT3D_OUTPUT_PADDING_TOO_LARGE, "output_padding", a, d->output_padding[a], reach, "");
    if (d->out_size[a] != 0 && !d->fixed_out_size)
        return convt3d__fail(e, CONVT3D_OUT_SIZE_NOT_FIXED, "out_size", a, d->out_size[a], 0, "");
    if (d->out_size[a] < 0)
        return convt3d__fail(e, CONVT3D_OUT_SIZE_NEGATIVE, "out_size", a, d->out_size[a], 0, "");
    return CONVT3D_OK;
}

/* *size = (in_size - 1)*stride + dilation*(kernel - 1) + output_padding + 1 - 2*padding, each part checked. */
static convt3d_status convt3d__axis_output(const convt3d_desc *d, int32_t a, int64_t *size, convt3d_error *e)
{
    int64_t spread, window;
    if (!convt3d__mul(convt3d__max(d->in_size[a] - 1, 0), d->stride[a], &spread))
        return convt3d__fail(e, CONVT3D_GEOMETRY_OVERFLOW, "stride", a, d->stride[a], 0, "");
    if (!convt3d__mul(d->kernel[a] - 1, d->dilation[a], &window))
        return convt3d__fail(e, CONVT3D_GEOMETRY_OVERFLOW, "dilation", a, d->dilation[a], 0, "");
    if (!convt3d__add(spread, window, size) || !convt3d__add(*size, d->output_padding[a], size) ||
        !convt3d__add(*size, 1, size))
        return convt3d__fail(e, CONVT3D_GEOMETRY_OVERFLOW, "in_size", a, d->in_size[a], 0, "");
    if (d->padding[a] < INT64_MIN / 4 || d->padding[a] > INT64_MAX / 4 || !convt3d__add(*size, -2 * d->padding[a], size))
        return convt3d__fail(e, CONVT3D_GEOMETRY_OVERFLOW, "padding", a, d->padding[a], 0, "");
    return CONVT3D_OK;
}

static convt3d_status convt3d__resolve_axis(const convt3d_desc *d, int32_t a, convt3d__axis *axis, convt3d_error *e)
{
    int64_t size = 0, unused;
    convt3d_status status = convt3d__axis_output(d, a, &size, e);
    if (status) return status;
    if (d->fixed_out_size) size = d->out_size[a];
    else if (size < 1) return convt3d__fail(e, CONVT3D_OUTPUT_EMPTY, "padding", a, size, d->padding[a], "");
    /* One stride of head room, so that the kernels' o + padding + stride - 1 and the like hold. */
    if (!convt3d__add(size, d->padding[a] < 0 ? -d->padding[a] : d->padding[a], &unused) ||
        !convt3d__add(unused, d->stride[a], &unused) || !convt3d__add(unused, d->dilation[a], &unused))
        return convt3d__fail(e, CONVT3D_GEOMETRY_OVERFLOW, d->fixed_out_size ? "out_size" : "stride", a,
                             d->fixed_out_size ? d->out_size[a] : d->stride[a], 0, "");
    axis->in = d->in_size[a];  axis->out = size;  axis->kernel = d->kernel[a];
    axis->stride = d->stride[a];  axis->padding = d->padding[a];  axis->dilation = d->dilation[a];
    axis->gcd = convt3d__gcd(axis->stride, axis->dilation);
    axis->tap_step = axis->stride / axis->gcd;
    axis->in_step = axis->dilation / axis->gcd;
    axis->inverse = convt3d__inverse(axis->in_step, axis->tap_step);
    return CONVT3D_OK;
}

/* Number of elements of a tensor, if their bytes fit the address space even when the batch is 0. */
static int convt3d__count(const int64_t size[5], int64_t element, int64_t *count)
{
    int64_t bytes = element, n = 1;
    int32_t i;
    for (i = 0; i < 5; i++) {
        if (size[i] > 0 && !convt3d__mul(bytes, size[i], &bytes)) return 0;
        n = size[i] == 0 ? 0 : n * size[i];
    }
    *count = n;
    return (uint64_t)bytes <= (uint64_t)PTRDIFF_MAX;
}

/* Fills in dense strides where all five are zero; *extent = elements from the first to one past the last. An axis of
 * one element may have any stride: here it gets one that keeps what is near the tensor within 64 bits. */
static int convt3d__strides(int64_t stride[5], const int64_t size[5], int32_t layout, int64_t element, int64_t *extent)
{
    static const int32_t inner_first[2][5] = {{4, 3, 2, 1, 0}, {1, 4, 3, 2, 0}};
    int64_t reach = 1, span, bytes;
    int32_t i, dense = 1;
    for (i = 0; i < 5; i++) dense = dense && stride[i] == 0;
    for (i = 0, span = 1; dense && i < 5; i++) {
        stride[inner_first[layout][i]] = span;
        span *= convt3d__max(size[inner_first[layout][i]], 1);
    }
    *extent = 0;
    for (i = 0; i < 5; i++) {
        if (!convt3d__mul(convt3d__max(size[i] - 1, 0), stride[i], &span) || !convt3d__add(reach, span, &reach)) return 0;
        if (size[i] == 0) dense = -1;
    }
    if (dense >= 0) *extent = reach;
    for (i = 0; i < 5; i++) if (size[i] <= 1) stride[i] = convt3d__min(stride[i], reach);
    return convt3d__mul(reach, element, &bytes) && (uint64_t)bytes <= (uint64_t)PTRDIFF_MAX;
}

/* Elements of a tensor are distinct when, from the smallest stride up, each stride steps over all that lies inside. */
static convt3d_status convt3d__check_distinct(const int64_t stride[5], const int64_t size[5], convt3d_status status,
                                              const char *field, convt3d_error *e)
{
    int32_t used[5] = {0, 0, 0, 0, 0}, i, n;
    int64_t least = 1;
    for (i = 0; i < 5; i++) if (size[i] == 0) return CONVT3D_OK;
    for (n = 0; n < 5; n++) {
        int32_t next = -1;
        for (i = 0; i < 5; i++)
            if (!used[i] && size[i] > 1 && (next < 0 || stride[i] < stride[next])) next = i;
        if (next < 0) return CONVT3D_OK;
        if (stride[next] < least)
            return convt3d__fail(e, status, field, next, stride[next], least, "");
        used[next] = 1;
        least = stride[next] * (size[next] - 1) + least;
    }
    return CONVT3D_OK;
}

static void convt3d__out_sizes(const convt3d__plan *p, int64_t size[5])
{
    size[0] = p->desc.batch;  size[1] = p->desc.out_channels;
    size[2] = p->axis[0].out;  size[3] = p->axis[1].out;  size[4] = p->axis[2].out;
}

static void convt3d__in_sizes(const convt3d__plan *p, int64_t size[5])
{
    size[0] = p->desc.batch;  size[1] = p->desc.in_channels;
    size[2] = p->axis[0].in;  size[3] = p->axis[1].in;  size[4] = p->axis[2].in;
}

/* One tensor's strides, their defaults, its elements and extent, with the statuses of what may be wrong. */
static convt3d_status convt3d__resolve_tensor(const convt3d_desc *d, const char *name, const int64_t size[5],
                                              int64_t stride[5], const char *field, convt3d_status negative,
                                              convt3d_status large, int64_t *extent, convt3d_error *e)
{
    int64_t element = convt3d__element_size(d->dtype), count;
    int32_t i;
    for (i = 0; i < 5; i++)
        if (stride[i] < 0) return convt3d__fail(e, negative, field, i, stride[i], 0, "");
    if (!convt3d__count(size, element, &count) || !convt3d__strides(stride, size, d->layout, element, extent))
        return convt3d__fail(e, large, name, -1, 0, (int64_t)PTRDIFF_MAX, "");
    return CONVT3D_OK;
}

static convt3d_status convt3d__resolve_tensors(convt3d__plan *p, convt3d_error *e)
{
    convt3d_desc *d = &p->desc;
    int64_t x[5], y[5], w[5];
    convt3d_status status;
    int32_t i;
    convt3d__in_sizes(p, x);
    convt3d__out_sizes(p, y);
    w[0] = d->in_channels;  w[1] = d->out_channels / d->groups;
    for (i = 0; i < 3; i++) w[2 + i] = p->axis[i].kernel;
    if (!convt3d__count(w, convt3d__element_size(d->dtype), &p->w_count))
        return convt3d__fail(e, CONVT3D_W_TOO_LARGE, "w", -1, 0, (int64_t)PTRDIFF_MAX, "");
    status = convt3d__resolve_tensor(d, "x", x, d->x_stride, "x_stride", CONVT3D_X_STRIDE_NEGATIVE, CONVT3D_X_TOO_LARGE,
                                     &p->x_extent, e);
    if (!status) status = convt3d__resolve_tensor(d, "y", y, d->y_stride, "y_stride", CONVT3D_Y_STRIDE_NEGATIVE,
                                                  CONVT3D_Y_TOO_LARGE, &p->y_extent, e);
    if (!status) status = convt3d__resolve_tensor(d, "dy", y, d->dy_stride, "dy_stride", CONVT3D_DY_STRIDE_NEGATIVE,
                                                  CONVT3D_DY_TOO_LARGE, &p->dy_extent, e);
    if (!status) status = convt3d__resolve_tensor(d, "dx", x, d->dx_stride, "dx_stride", CONVT3D_DX_STRIDE_NEGATIVE,
                                                  CONVT3D_DX_TOO_LARGE, &p->dx_extent, e);
    if (status) return status;
    p->x_count = x[0] * x[1] * x[2] * x[3] * x[4];
    p->y_count = y[0] * y[1] * y[2] * y[3] * y[4];
    p->taps = w[2] * w[3] * w[4];
    p->in_group = d->in_channels / d->groups;
    p->out_group = d->out_channels / d->groups;
    status = convt3d__check_distinct(d->y_stride, y, CONVT3D_Y_STRIDE_OVERLAP, "y_stride", e);
    if (status != CONVT3D_OK) return status;
    return convt3d__check_distinct(d->dx_stride, x, CONVT3D_DX_STRIDE_OVERLAP, "dx_stride", e);
}

/* The residuals of the list: strides and extents. */
static convt3d_status convt3d__resolve_list(convt3d__plan *p, convt3d_error *e)
{
    convt3d_desc *d = &p->desc;
    int64_t size[5];
    int32_t i;
    convt3d__out_sizes(p, size);
    for (i = 0; i < p->op_count; i++) {
        convt3d_op *op = &d->ops[i];
        if (op->kind == CONVT3D_OP_BATCH_NORM && p->y_count > 0 && p->y_count == d->out_channels)
            return convt3d__fail(e, CONVT3D_OP_ONE_VALUE, "ops", i, 0, 0, "");
        if (!(convt3d__op_uses(op->kind) & CONVT3D_USES_RESIDUAL)) continue;
        if (!convt3d__strides(op->stride, size, d->layout, convt3d__element_size(d->dtype), &p->residual_extent[i]))
            return convt3d__fail(e, CONVT3D_OP_RESIDUAL_TOO_LARGE, "ops", i, 0, (int64_t)PTRDIFF_MAX, "");
    }
    return CONVT3D_OK;
}

/* Bytes of a dense tensor of y's shape, and its strides; 0 where 64 bits do not hold them. */
static int convt3d__dense_output(const convt3d__plan *p, int32_t dtype, int64_t stride[5], int64_t *bytes)
{
    int64_t size[5], extent;
    int32_t i;
    convt3d__out_sizes(p, size);
    for (i = 0; i < 5; i++) stride[i] = 0;
    if (!convt3d__strides(stride, size, p->desc.layout, convt3d__element_size(dtype), &extent)) return 0;
    *bytes = extent * convt3d__element_size(dtype);
    return 1;
}

/* What a kernel that applies `fused` entries stores, and where: in saved, if that is kept; else in y, unless it would
 * round there or a residual of a later entry may be y. Returns 0 where the workspace that this takes does not fit 64
 * bits. */
static int convt3d__resolve_stage(convt3d__plan *p, int32_t fused)
{
    int32_t wide = convt3d__wide(p->desc.dtype), keeps = p->saves == CONVT3D_SAVES_CONVOLUTION, i;
    int64_t each;
    p->fused = keeps ? 0 : fused;
    p->between = p->fused < p->op_count ? wide : p->desc.dtype;
    p->stored = keeps ? p->desc.dtype : p->between;
    p->staged = keeps || p->stored != p->desc.dtype;
    p->stage = p->statistics = 0;
    for (i = p->fused; i < p->op_count; i++)
        if (convt3d__op_uses(p->desc.ops[i].kind) & CONVT3D_USES_RESIDUAL) p->staged = 1;
    memcpy(p->stored_stride, p->desc.y_stride, sizeof p->stored_stride);
    if (p->staged && !convt3d__dense_output(p, p->between, p->stored_stride, &p->stage)) return 0;
    if (keeps && convt3d__pass_end(p, 0) == p->op_count) p->stage = 0;          /* one pass, from saved to y */
    /* Count, mean and squared deviation of every channel of a sample and part, mean and rstd of every set; doubles. */
    if (convt3d__next_norm(p, 0) == p->op_count || p->y_count == 0) return 1;
    return convt3d__mul(p->desc.batch * p->desc.out_channels, convt3d__moment_parts(p) * 3 + 2, &each) &&
           convt3d__mul(each, 8, &p->statistics);
}

/* Everything of a plan but the kernel. */
static convt3d_status convt3d__resolve(convt3d__plan *p, const convt3d_desc *desc, convt3d_error *e)
{
    convt3d_status status;
    int32_t a;
    if (!desc) return convt3d__fail(e, CONVT3D_NULL_ARGUMENT, "desc", -1, 0, 0, "");
    memset(p, 0, sizeof *p);
    p->desc = *desc;
    if ((status = convt3d__check_enums(&p->desc, e)) != CONVT3D_OK) return status;
    if ((status = convt3d__check_options(&p->desc, e)) != CONVT3D_OK) return status;
    if ((status = convt3d__check_channels(&p->desc, e)) != CONVT3D_OK) return status;
    if ((status = convt3d__check_ops(p, e)) != CONVT3D_OK) return status;
    for (a = 0; a < 3; a++) {
        if ((status = convt3d__check_axis(&p->desc, a, e)) != CONVT3D_OK) return status;
        if ((status = convt3d__resolve_axis(&p->desc, a, &p->axis[a], e)) != CONVT3D_OK) return status;
    }
    if ((status = convt3d__resolve_tensors(p, e)) != CONVT3D_OK) return status;
    if ((status = convt3d__resolve_list(p, e)) != CONVT3D_OK) return status;
    p->saves = convt3d__saves_for(p, p->desc.backward, &p->curved);
    return CONVT3D_OK;
}

/* --------------------------------------------------------------------------------------------------------------------
 * The reference: gather by phases, double accumulators. It is the specification: every other kernel is compared to it.
 *
 * A tile is CONVT3D__CHANNELS channels by a box of up to CONVT3D__POSITIONS outputs of one phase. Its outputs
 * share their taps, but for the ends of the input, where a tap serves a smaller box: no tap is tested. Every output
 * belongs to one tile and sums over ic, kd, kh, kw in this order, whatever the threads, slabs and batch.
 */
enum { CONVT3D__CHANNELS = 8, CONVT3D__POSITIONS = 256 };

/* to[j] = from[offset + j*step] */
static void convt3d__load(int32_t dtype, const void *from, int64_t offset, int64_t step, int64_t n, double *to)
{
    int64_t j;
    if (dtype == CONVT3D_F32) {
        const float *f = (const float *)from + offset;
        if (step == 1) for (j = 0; j < n; j++) to[j] = (double)f[j];
        else for (j = 0; j < n; j++) to[j] = (double)f[j * step];
    } else if (dtype == CONVT3D_F64) {
        const double *f = (const double *)from + offset;
        for (j = 0; j < n; j++) to[j] = f[j * step];
    } else {
        const uint16_t *f = (const uint16_t *)from + offset;
        if (dtype == CONVT3D_F16) for (j = 0; j < n; j++) to[j] = convt3d_double_from_f16(f[j * step]);
        else for (j = 0; j < n; j++) to[j] = convt3d_double_from_bf16(f[j * step]);
    }
}

/* to[offset + j*step] = from[j], rounded once */
static void convt3d__store(int32_t dtype, void *to, int64_t offset, int64_t step, int64_t n, const double *from)
{
    int64_t j;
    if (dtype == CONVT3D_F32) {
        float *t = (float *)to + offset;
        for (j = 0; j < n; j++) t[j * step] = (float)from[j];
    } else if (dtype == CONVT3D_F64) {
        double *t = (double *)to + offset;
        for (j = 0; j < n; j++) t[j * step] = from[j];
    } else {
        uint16_t *t = (uint16_t *)to + offset;
        if (dtype == CONVT3D_F16) for (j = 0; j < n; j++) t[j * step] = convt3d_f16_from_double(from[j]);
        else for (j = 0; j < n; j++) t[j * step] = convt3d_bf16_from_double(from[j]);
    }
}

static int64_t convt3d__offset(const int64_t at[5], const int64_t stride[5])
{
    return at[0] * stride[0] + at[1] * stride[1] + at[2] * stride[2] + at[3] * stride[3] + at[4] * stride[4];
}

/* Element `index` of a small tensor of the list, or what stands for it. */
static double convt3d__vector_at(const convt3d__plan *p, const void *vector, int64_t index, double otherwise)
{
    if (vector) convt3d__load(convt3d__wide(p->desc.dtype), vector, index, 1, 1, &otherwise);
    return otherwise;
}

/* Entries [first, end) of the list, none of which normalises, on up to CONVT3D__POSITIONS outputs at[], at[] + step,
 * ... along the last axis. */
static void convt3d__apply(const convt3d__plan *p, const convt3d_io *io, int32_t first, int32_t end,
                           const int64_t at[5], int64_t step, double *v, int64_t n)
{
    double residual[CONVT3D__POSITIONS];
    int64_t j;
    for (; first < end; first++) {
        const convt3d_op *op = &p->desc.ops[first];
        const convt3d_op_io *tensors = &io->ops[first];
        if (op->kind == CONVT3D_OP_ADD || op->kind == CONVT3D_OP_MULTIPLY)
            convt3d__load(p->desc.dtype, tensors->residual, convt3d__offset(at, op->stride), step * op->stride[4], n,
                          residual);
        if (op->kind == CONVT3D_OP_ADD) for (j = 0; j < n; j++) v[j] += residual[j];
        else if (op->kind == CONVT3D_OP_MULTIPLY) for (j = 0; j < n; j++) v[j] *= residual[j];
        else if (op->kind == CONVT3D_OP_CHANNEL_AFFINE)
            convt3d__apply_function(CONVT3D_OP_AFFINE, convt3d__vector_at(p, tensors->scale, at[1], 1),
                                    convt3d__vector_at(p, tensors->shift, at[1], 0), v, n);
        else convt3d__apply_function(op->kind, op->a, op->b, v, n);
    }
}

/* sum[c][j] += w[c]*x[j] for four channels at once, so that x is loaded once for them. Blocks of constant length let
 * a compiler use vectors at -O2. */
static void convt3d__add_product4(double *CONVT3D__RESTRICT s0, double *CONVT3D__RESTRICT s1,
                                  double *CONVT3D__RESTRICT s2, double *CONVT3D__RESTRICT s3,
                                  const double *CONVT3D__RESTRICT w, const double *CONVT3D__RESTRICT x, int64_t n)
{
    double w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
    int64_t j;
    int u;
    for (j = 0; j + 4 <= n; j += 4) {
        for (u = 0; u < 4; u++) s0[j + u] += w0 * x[j + u];
        for (u = 0; u < 4; u++) s1[j + u] += w1 * x[j + u];
        for (u = 0; u < 4; u++) s2[j + u] += w2 * x[j + u];
        for (u = 0; u < 4; u++) s3[j + u] += w3 * x[j + u];
    }
    for (; j < n; j++) {
        s0[j] += w0 * x[j];
        s1[j] += w1 * x[j];
        s2[j] += w2 * x[j];
        s3[j] += w3 * x[j];
    }
}

static void convt3d__add_product(double *CONVT3D__RESTRICT sum, double w, const double *CONVT3D__RESTRICT x, int64_t n)
{
    int64_t j;
    int u;
    for (j = 0; j + 4 <= n; j += 4)
        for (u = 0; u < 4; u++) sum[j + u] += w * x[j + u];
    for (; j < n; j++) sum[j] += w * x[j];
}

/* Both of the passes that gather: forward from x to y, backward from dy to dx. Their positions are outputs of the
 * gather; pitch apart they belong to one phase, and the next of them reads an element `step` further on. */
typedef struct convt3d__gather {
    const convt3d__plan *p;
    const convt3d_io *io;
    int32_t backward;
    const void *from;
    const int64_t *from_stride;
    int64_t from_group, to_group;       /* channels of a group                                      */
    int64_t from_w, to_w;               /* elements of w from one of these channels to the next     */
    int64_t from_size[3], to_size[3], step[3], pitch[3];
    int64_t phases[3], size[3], tiles[3], blocks;       /* how the outputs are cut                  */
} convt3d__gather;

typedef struct convt3d__tile {
    int64_t n, g, c, channels;          /* c within the group: channels of them                      */
    int64_t o[3], size[3];              /* per axis o, o + pitch, ...: size of them; one phase       */
} convt3d__tile;

typedef double convt3d__sums[CONVT3D__CHANNELS][CONVT3D__POSITIONS];

/* The part of a tile's axis that one tap serves: positions begin ... begin + count - 1, which read inputs i ... */
typedef struct convt3d__span { int64_t begin, count, i, k; } convt3d__span;

/* Taps of an axis that reach a tile. */
static convt3d__taps convt3d__tile_taps(const convt3d__gather *f, const convt3d__tile *t, int32_t a)
{
    convt3d__taps all = {0, 0, 0};
    if (!f->backward) return convt3d__taps_of(&f->p->axis[a], t->o[a], t->size[a]);
    all.count = f->p->axis[a].kernel;
    return all;
}

static convt3d__span convt3d__span_of(const convt3d__gather *f, const convt3d__tile *t, const convt3d__taps *taps,
                                      int64_t tap, int32_t a)
{
    const convt3d__axis *axis = &f->p->axis[a];
    convt3d__span span;
    span.k = f->backward ? tap : taps->k + tap * axis->tap_step;
    span.i = f->backward ? t->o[a] * axis->stride - axis->padding + tap * axis->dilation :
                           taps->i - tap * axis->in_step;
    span.begin = convt3d__max(0, convt3d__ceil_div(-span.i, f->step[a]));
    span.count = convt3d__floor_div(f->from_size[a] - 1 - span.i, f->step[a]) + 1;
    span.count = convt3d__min(t->size[a], span.count) - span.begin;
    span.i += span.begin * f->step[a];
    return span;
}

/* One tap and one channel read, for the box that it serves. Rows that follow each other in the tile without a gap are
 * one run of positions. */
static void convt3d__add_tap(const convt3d__gather *f, const convt3d__tile *t, int64_t c, const convt3d__span span[3],
                             convt3d__sums sum)
{
    const int64_t *stride = f->from_stride;
    double x[CONVT3D__POSITIONS], w[CONVT3D__CHANNELS];
    int64_t tap = (span[0].k * f->p->axis[1].kernel + span[1].k) * f->p->axis[2].kernel + span[2].k;
    int64_t run = span[2].count, rows = span[1].count, slices = span[0].count, a, b, v, at;
    at = t->g * f->p->in_group * f->p->out_group * f->p->taps + c * f->from_w + t->c * f->to_w + tap;
    convt3d__load(f->p->desc.dtype, f->io->w, at, f->to_w, t->channels, w);
    for (a = 0; a < slices; a++)
        for (b = 0; b < rows; b++) {
            at = ((span[0].begin + a) * t->size[1] + span[1].begin + b) * t->size[2] + span[2].begin;
            convt3d__load(f->p->desc.dtype, f->from, t->n * stride[0] + (t->g * f->from_group + c) * stride[1] +
                          (span[0].i + a * f->step[0]) * stride[2] + (span[1].i + b * f->step[1]) * stride[3] +
                          span[2].i * stride[4], f->step[2] * stride[4], run, x + at);
        }
    if (run == t->size[2]) {
        run *= rows;
        if (rows == t->size[1]) { run *= slices;  slices = 1; }
        rows = 1;
    }
    for (a = 0; a < slices; a++)
        for (b = 0; b < rows; b++) {
            at = ((span[0].begin + a) * t->size[1] + span[1].begin + b) * t->size[2] + span[2].begin;
            for (v = 0; v + 4 <= t->channels; v += 4)
                convt3d__add_product4(sum[v] + at, sum[v + 1] + at, sum[v + 2] + at, sum[v + 3] + at, w + v, x + at,
                                      run);
            for (; v < t->channels; v++) convt3d__add_product(sum[v] + at, w[v], x + at, run);
        }
}

/* Row (a, b) of a tile's channel, to y: after the bias and the list. */
static void convt3d__store_output(const convt3d__gather *f, const int64_t at[5], double *row, int64_t n)
{
    const convt3d__plan *p = f->p;
    double bias = 0;
    int64_t j;
    if (f->io->bias) convt3d__load(p->desc.dtype, f->io->bias, at[1], 1, 1, &bias);
    for (j = 0; j < n; j++) row[j] += bias;
    convt3d__apply(p, f->io, 0, p->fused, at, f->pitch[2], row, n);
    convt3d__store(p->stored, f->io->y, convt3d__offset(at, p->desc.y_stride), f->pitch[2] * p->desc.y_stride[4], n,
                   row);
}

/* n sums to a gradient, on top of what is there if its bit is among those that accumulate. */
static void convt3d__store_gradient(const convt3d__plan *p, int32_t bit, int32_t dtype, void *to, int64_t offset,
                                    int64_t step, int64_t n, double *sum)
{
    double old[CONVT3D__POSITIONS];
    int64_t j;
    if (p->desc.accumulate & bit) {
        convt3d__load(dtype, to, offset, step, n, old);
        for (j = 0; j < n; j++) sum[j] += old[j];
    }
    convt3d__store(dtype, to, offset, step, n, sum);
}

static void convt3d__store_tile(const convt3d__gather *f, const convt3d__tile *t, convt3d__sums sum)
{
    const int64_t *stride = f->p->desc.dx_stride;
    int64_t c, a, b, at[5];
    at[0] = t->n;  at[4] = t->o[2];
    for (c = 0; c < t->channels; c++)
        for (a = 0; a < t->size[0]; a++)
            for (b = 0; b < t->size[1]; b++) {
                double *row = sum[c] + (a * t->size[1] + b) * t->size[2];
                at[1] = t->g * f->to_group + t->c + c;
                at[2] = t->o[0] + a * f->pitch[0];
                at[3] = t->o[1] + b * f->pitch[1];
                if (!f->backward) convt3d__store_output(f, at, row, t->size[2]);
                else convt3d__store_gradient(f->p, CONVT3D_BACKWARD_X, f->p->desc.dtype, f->io->dx,
                                             convt3d__offset(at, stride), stride[4], t->size[2], row);
            }
}

static void convt3d__reference_tile(const convt3d__gather *f, const convt3d__tile *t)
{
    convt3d__sums sum;
    convt3d__taps taps[3];
    convt3d__span span[3];
    int64_t c, a, b, k;
    int32_t axis;
    for (axis = 0; axis < 3; axis++) taps[axis] = convt3d__tile_taps(f, t, axis);
    for (a = 0; a < t->channels; a++)
        for (b = 0; b < t->size[0] * t->size[1] * t->size[2]; b++) sum[a][b] = 0;
    for (c = 0; c < f->from_group; c++)
        for (a = 0; a < taps[0].count; a++)
            for (b = 0; b < taps[1].count; b++)
                for (k = 0; k < taps[2].count; k++) {
                    span[0] = convt3d__span_of(f, t, &taps[0], a, 0);
                    span[1] = convt3d__span_of(f, t, &taps[1], b, 1);
                    span[2] = convt3d__span_of(f, t, &taps[2], k, 2);
                    if (span[0].count > 0 && span[1].count > 0 && span[2].count > 0)
                        convt3d__add_tap(f, t, c, span, sum);
                }
    convt3d__store_tile(f, t, sum);
}

/* Cuts the outputs into tiles: per axis phases that hold an output, the positions of a tile, the tiles of a phase. */
static void convt3d__cut(convt3d__gather *f)
{
    int64_t room = CONVT3D__POSITIONS;
    int32_t a;
    for (a = 2; a >= 0; a--) {
        int64_t longest = convt3d__ceil_div(f->to_size[a], f->pitch[a]);
        f->phases[a] = convt3d__min(f->pitch[a], f->to_size[a]);
        f->size[a] = convt3d__min(room, longest);
        f->tiles[a] = convt3d__ceil_div(longest, f->size[a]);
        room /= f->size[a];
    }
    f->blocks = convt3d__ceil_div(f->to_group, CONVT3D__CHANNELS);
}

/* Places tile `index` of an axis, counted through its phases; returns 0 where the phase ends before it. */
static int convt3d__place(const convt3d__gather *f, int32_t a, int64_t index, convt3d__tile *t)
{
    int64_t phase = index / f->tiles[a], from = index % f->tiles[a] * f->size[a];
    int64_t length = convt3d__ceil_div(f->to_size[a] - phase, f->pitch[a]);
    t->o[a] = phase + from * f->pitch[a];
    t->size[a] = convt3d__min(f->size[a], length - from);
    return t->size[a] > 0;
}

/* The tiles of one stretch of output rows for one block of channels: the phases of the last axis one after the other,
 * so that what they write between each other is still in the cache. */
static void convt3d__reference_rows(const convt3d__gather *f, int64_t index)
{
    int64_t d, h, w, phase;
    convt3d__tile t;
    w = index % f->tiles[2];  index /= f->tiles[2];
    h = index % (f->phases[1] * f->tiles[1]);  index /= f->phases[1] * f->tiles[1];
    d = index % (f->phases[0] * f->tiles[0]);  index /= f->phases[0] * f->tiles[0];
    t.c = index % f->blocks * CONVT3D__CHANNELS;  index /= f->blocks;
    t.g = index % f->p->desc.groups;
    t.n = index / f->p->desc.groups;
    t.channels = convt3d__min(CONVT3D__CHANNELS, f->to_group - t.c);
    if (!convt3d__place(f, 0, d, &t) || !convt3d__place(f, 1, h, &t)) return;
    for (phase = 0; phase < f->phases[2]; phase++)
        if (convt3d__place(f, 2, phase * f->tiles[2] + w, &t)) convt3d__reference_tile(f, &t);
}

#ifdef _OPENMP
/* Threads for `count` independent pieces of work. */
static int convt3d__threads(const convt3d__plan *p, int64_t count)
{
    int threads = p->desc.threads ? p->desc.threads : omp_get_max_threads();
    return (int)convt3d__max(1, convt3d__min(count, threads));
}
#endif

static void convt3d__run_gather(convt3d__gather *f)
{
    int64_t count, i;
    convt3d__cut(f);
    count = f->p->desc.batch * f->p->desc.groups * f->blocks * f->phases[0] * f->tiles[0] * f->phases[1] * f->tiles[1] *
            f->tiles[2];
#ifdef _OPENMP
    int threads = convt3d__threads(f->p, count);
#pragma omp parallel for num_threads(threads) schedule(dynamic) if(threads > 1)
#endif
    for (i = 0; i < count; i++) convt3d__reference_rows(f, i);
}

static convt3d_status convt3d__reference_run(const convt3d__plan *p, const convt3d_io *io, convt3d_error *error)
{
    convt3d__gather f;
    int32_t a;
    f.p = p;  f.io = io;  f.backward = 0;
    f.from = io->x;  f.from_stride = p->desc.x_stride;
    f.from_group = p->in_group;  f.to_group = p->out_group;
    f.from_w = p->out_group * p->taps;  f.to_w = p->taps;
    for (a = 0; a < 3; a++) {
        f.from_size[a] = p->axis[a].in;  f.to_size[a] = p->axis[a].out;
        f.step[a] = 1;  f.pitch[a] = p->axis[a].stride;
    }
    convt3d__run_gather(&f);
    return convt3d__ok(error);
}

static convt3d_status convt3d__reference_dx(const convt3d__plan *p, const convt3d_io *io, convt3d_error *error)
{
    convt3d__gather f;
    int32_t a;
    f.p = p;  f.io = io;  f.backward = 1;
    f.from = io->dy;  f.from_stride = p->desc.dy_stride;
    f.from_group = p->out_group;  f.to_group = p->in_group;
    f.from_w = p->taps;  f.to_w = p->out_group * p->taps;
    for (a = 0; a < 3; a++) {
        f.from_size[a] = p->axis[a].out;  f.to_size[a] = p->axis[a].in;
        f.step[a] = p->axis[a].stride;  f.pitch[a] = 1;
    }
    if (p->x_count > 0) convt3d__run_gather(&f);
    return convt3d__ok(error);
}

/* --------------------------------------------------------------------------------------------------------------------
 * The reference for dw and dbias: every element of dw is one sum over n and i, in their order, by one thread.
 */
enum { CONVT3D__TAPS = 8 };         /* of a row of the kernel, summed together with CONVT3D__CHANNELS input channels */

typedef struct convt3d__dw_unit {
    int64_t g, ic, channels, oc;    /* ic, oc within the group */
    int64_t kd, kh, kw, taps;
} convt3d__dw_unit;

static double convt3d__dot(const double *CONVT3D__RESTRICT a, const double *CONVT3D__RESTRICT b, int64_t n)
{
    double sum[4] = {0, 0, 0, 0};
    int64_t j;
    int u;
    for (j = 0; j + 4 <= n; j += 4)
        for (u = 0; u < 4; u++) sum[u] += a[j + u] * b[j + u];
    for (; j < n; j++) sum[0] += a[j] * b[j];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Inputs [*first, *last] of an axis whose tap k lands inside the output. */
static void convt3d__inputs_of(const convt3d__axis *axis, int64_t k, int64_t *first, int64_t *last)
{
    int64_t shift = axis->padding - k * axis->dilation;
    *first = convt3d__max(0, convt3d__ceil_div(shift, axis->stride));
    *last = convt3d__min(axis->in - 1, convt3d__floor_div(axis->out - 1 + shift, axis->stride));
}

/* A stretch of inputs from at[] on, n of them, against all taps of the unit. */
static void convt3d__add_stretch(const convt3d__plan *p, const convt3d_io *io, const convt3d__dw_unit *u,
                                 const int64_t at[5], int64_t n, double sum[CONVT3D__TAPS][CONVT3D__CHANNELS])
{
    const convt3d__axis *w = &p->axis[2];
    double x[CONVT3D__CHANNELS][CONVT3D__POSITIONS], g[CONVT3D__POSITIONS];
    int64_t out[5], c, k, first, last, step = p->desc.x_stride[4];
    for (c = 0; c < u->channels; c++)
        convt3d__load(p->desc.dtype, io->x, convt3d__offset(at, p->desc.x_stride) + c * p->desc.x_stride[1], step, n,
                      x[c]);
    out[0] = at[0];  out[1] = u->g * p->out_group + u->oc;
    out[2] = at[2] * p->axis[0].stride - p->axis[0].padding + u->kd * p->axis[0].dilation;
    out[3] = at[3] * p->axis[1].stride - p->axis[1].padding + u->kh * p->axis[1].dilation;
    for (k = 0; k < u->taps; k++) {
        convt3d__inputs_of(w, u->kw + k, &first, &last);
        first = convt3d__max(first, at[4]);
        last = convt3d__min(last, at[4] + n - 1);
        if (first > last) continue;
        out[4] = first * w->stride - w->padding + (u->kw + k) * w->dilation;
        convt3d__load(p->desc.dtype, io->dy, convt3d__offset(out, p->desc.dy_stride), w->stride * p->desc.dy_stride[4],
                      last - first + 1, g);
        for (c = 0; c < u->channels; c++) sum[k][c] += convt3d__dot(x[c] + (first - at[4]), g, last - first + 1);
    }
}

static void convt3d__sum_dw(const convt3d__plan *p, const convt3d_io *io, const convt3d__dw_unit *u)
{
    double sum[CONVT3D__TAPS][CONVT3D__CHANNELS];
    int64_t at[5], d0, d1, h0, h1, k, c, row, samples = p->x_count > 0 && p->y_count > 0 ? p->desc.batch : 0;
    memset(sum, 0, sizeof sum);
    convt3d__inputs_of(&p->axis[0], u->kd, &d0, &d1);
    convt3d__inputs_of(&p->axis[1], u->kh, &h0, &h1);
    at[1] = u->g * p->in_group + u->ic;
    for (at[0] = 0; at[0] < samples; at[0]++)
        for (at[2] = d0; at[2] <= d1; at[2]++)
            for (at[3] = h0; at[3] <= h1; at[3]++)
                for (at[4] = 0; at[4] < p->axis[2].in; at[4] += CONVT3D__POSITIONS)
                    convt3d__add_stretch(p, io, u, at, convt3d__min(CONVT3D__POSITIONS, p->axis[2].in - at[4]), sum);
    for (k = 0; k < u->taps; k++) {
        row = (u->kd * p->axis[1].kernel + u->kh) * p->axis[2].kernel + u->kw + k;
        c = ((u->g * p->in_group + u->ic) * p->out_group + u->oc) * p->taps + row;
        convt3d__store_gradient(p, CONVT3D_BACKWARD_W, p->desc.dtype, io->dw, c, p->out_group * p->taps, u->channels,
                                sum[k]);
    }
}

/* Unit `index` of dw: oc runs fastest but for the taps, so that threads share what they read of x. */
static void convt3d__dw_unit_at(const convt3d__plan *p, const convt3d_io *io, int64_t index)
{
    int64_t blocks = convt3d__ceil_div(p->in_group, CONVT3D__CHANNELS);
    int64_t runs = convt3d__ceil_div(p->axis[2].kernel, CONVT3D__TAPS);
    convt3d__dw_unit u;
    u.kw = index % runs * CONVT3D__TAPS;  index /= runs;
    u.taps = convt3d__min(CONVT3D__TAPS, p->axis[2].kernel - u.kw);
    u.kh = index % p->axis[1].kernel;  index /= p->axis[1].kernel;
    u.kd = index % p->axis[0].kernel;  index /= p->axis[0].kernel;
    u.oc = index % p->out_group;  index /= p->out_group;
    u.ic = index % blocks * CONVT3D__CHANNELS;
    u.g = index / blocks;
    u.channels = convt3d__min(CONVT3D__CHANNELS, p->in_group - u.ic);
    convt3d__sum_dw(p, io, &u);
}

static void convt3d__sum_dbias(const convt3d__plan *p, const convt3d_io *io, int64_t oc)
{
    double sum = 0, g[CONVT3D__POSITIONS];
    int64_t at[5], n, j, samples = p->y_count > 0 ? p->desc.batch : 0;
    at[1] = oc;
    for (at[0] = 0; at[0] < samples; at[0]++)
        for (at[2] = 0; at[2] < p->axis[0].out; at[2]++)
            for (at[3] = 0; at[3] < p->axis[1].out; at[3]++)
                for (at[4] = 0; at[4] < p->axis[2].out; at[4] += n) {
                    n = convt3d__min(CONVT3D__POSITIONS, p->axis[2].out - at[4]);
                    convt3d__load(p->desc.dtype, io->dy, convt3d__offset(at, p->desc.dy_stride), p->desc.dy_stride[4],
                                  n, g);
                    for (j = 0; j < n; j++) sum += g[j];
                }
    convt3d__store_gradient(p, CONVT3D_BACKWARD_BIAS, p->desc.dtype, io->dbias, oc, 1, 1, &sum);
}

static convt3d_status convt3d__reference_dw(const convt3d__plan *p, const convt3d_io *io, convt3d_error *error)
{
    int64_t dw = 0, dbias = io->dbias ? p->desc.out_channels : 0, i;
    if (io->dw) dw = p->desc.groups * convt3d__ceil_div(p->in_group, CONVT3D__CHANNELS) * p->out_group *
                     p->axis[0].kernel * p->axis[1].kernel * convt3d__ceil_div(p->axis[2].kernel, CONVT3D__TAPS);
#ifdef _OPENMP
    int threads = convt3d__threads(p, dw + dbias);
#pragma omp parallel for num_threads(threads) schedule(dynamic) if(threads > 1)
#endif
    for (i = 0; i < dw + dbias; i++) {
        if (i < dw) convt3d__dw_unit_at(p, io, i);
        else convt3d__sum_dbias(p, io, i - dw);
    }
    return convt3d__ok(error);
}

/* Sum over m in [0, n) of floor((a*m + b)/divisor), for a, b >= 0; a*n + b fits 64 bits, the sum may need a double. */
static double convt3d__floor_sum(int64_t n, int64_t divisor, int64_t a, int64_t b)
{
    double sum = 0;
    while (n > 0) {
        int64_t last;
        sum += 0.5 * (double)n * (double)(n - 1) * (double)(a / divisor) + (double)n * (double)(b / divisor);
        a %= divisor;
        b %= divisor;
        last = a * n + b;
        n = last / divisor;
        b = last % divisor;
        last = divisor;  divisor = a;  a = last;
        if (n == 0) break;
    }
    return sum;
}

/* Pairs (i, k) with i*stride + k*dilation <= v, over i in [0, in) and k in [0, kernel). */
static double convt3d__pairs_up_to(const convt3d__axis *x, int64_t v)
{
    int64_t full, some, span = (x->in - 1) * x->stride;     /* taps that all inputs, or at least i = 0, satisfy */
    if (v < 0 || x->in == 0) return 0;
    some = convt3d__min(v / x->dilation + 1, x->kernel);
    full = v < span ? 0 : convt3d__min((v - span) / x->dilation + 1, x->kernel);
    return (double)full * (double)x->in + (double)(some - full) +
           convt3d__floor_sum(some - full, x->stride, x->dilation, v - (some - 1) * x->dilation);
}

static double convt3d__flops(const convt3d__plan *p)
{
    double products = (double)p->desc.batch * (double)p->desc.in_channels * (double)p->out_group;
    int32_t a;
    for (a = 0; a < 3; a++)
        products *= convt3d__pairs_up_to(&p->axis[a], p->axis[a].out - 1 + p->axis[a].padding) -
                    convt3d__pairs_up_to(&p->axis[a], p->axis[a].padding - 1);
    return 2 * products;
}

static int32_t convt3d__reference_refuses(convt3d__plan *p, char why[96]) { (void)p;  why[0] = 0;  return 0; }
static double convt3d__reference_cost(const convt3d__plan *p) { return 0.5e-9 * convt3d__flops(p); }
static int64_t convt3d__no_workspace(const convt3d__plan *p) { (void)p;  return 0; }
static int64_t convt3d__plain_pack(const convt3d__plan *p) { return p->w_count * convt3d__element_size(p->desc.dtype); }

/* --------------------------------------------------------------------------------------------------------------------
 * Passes over the output on the CPU, after any of its kernels, for what of the list it does not apply itself. One with
 * a normalisation first takes moments of every channel's parts and merges them in a fixed order.
 */
typedef struct convt3d__moments { double count, mean, m2; } convt3d__moments;   /* m2: sum of squared deviations */

/* Of both together: Chan, Golub, LeVeque 1983. */
static convt3d__moments convt3d__merge(convt3d__moments a, convt3d__moments b)
{
    convt3d__moments both;
    double delta = b.mean - a.mean;
    if (a.count == 0) return b;
    if (b.count == 0) return a;
    both.count = a.count + b.count;
    both.mean = a.mean + delta * (b.count / both.count);
    both.m2 = a.m2 + b.m2 + delta * delta * (a.count * b.count / both.count);
    return both;
}

static convt3d__moments convt3d__moments_of(const double *v, int64_t n)
{
    convt3d__moments m;
    int64_t j;
    m.count = (double)n;
    for (j = 0, m.mean = 0; j < n; j++) m.mean += v[j];
    m.mean /= (double)n;
    for (j = 0, m.m2 = 0; j < n; j++) m.m2 += (v[j] - m.mean) * (v[j] - m.mean);
    return m;
}

/* Entries [begin, end) of the list, of which `norm` alone normalises; norm == end: none. */
typedef struct convt3d__pass {
    const convt3d__plan *p;
    const convt3d_io *io;
    int32_t begin, norm, end;
    const void *from;                   /* of convt3d__stored_dtype() at p->stored_stride                */
    void *to;
    int32_t to_dtype;
    const int64_t *to_stride;
    int64_t parts, part_rows, rows;     /* rows (d, h) of a channel, cut in parts                        */
    convt3d__moments *moments;          /* [batch][parts][channels]                                      */
    double *set;                        /* [sets][2]: mean, rstd                                         */
    double *sums, *means;               /* backward: [slot][batch*parts][channels][2], [slot][sets][2]    */
} convt3d__pass;

/* body() for all rows (d, h) of all channels of one part of one sample; neighbours in memory follow each other. */
static void convt3d__pass_rows(const convt3d__pass *m, int64_t unit,
                               void (*body)(const convt3d__pass *m, int64_t unit, const int64_t at[5]))
{
    int64_t n = unit / m->parts, begin = unit % m->parts * m->part_rows, channels = m->p->desc.out_channels;
    int64_t end = convt3d__min(m->rows, begin + m->part_rows), count = convt3d__max(0, end - begin) * channels;
    int64_t i, at[5];
    int inner = m->p->stored_stride[1] < m->p->stored_stride[4];        /* channels lie closer than voxels */
    for (i = 0; i < count; i++) {
        int64_t row = begin + (inner ? i / channels : i % (end - begin));
        at[0] = n;  at[1] = inner ? i % channels : i / (end - begin);
        at[2] = row / m->p->axis[1].out;  at[3] = row % m->p->axis[1].out;  at[4] = 0;
        body(m, unit, at);
    }
}

/* Up to CONVT3D__POSITIONS stored values from at[] along a row, after the entries before the normalisation; returns how
 * many they are. */
static int64_t convt3d__pass_load(const convt3d__pass *m, const int64_t at[5], double *v)
{
    const int64_t *stride = m->p->stored_stride;
    int64_t n = convt3d__min(CONVT3D__POSITIONS, m->p->axis[2].out - at[4]);
    convt3d__load(convt3d__stored_dtype(m->p, m->begin), m->from, convt3d__offset(at, stride), stride[4], n, v);
    convt3d__apply(m->p, m->io, m->begin, m->norm, at, 1, v, n);
    return n;
}

static void convt3d__measure_row(const convt3d__pass *m, int64_t unit, const int64_t at[5])
{
    convt3d__moments *sum = m->moments + unit * m->p->desc.out_channels + at[1];
    int64_t here[5], n;
    double v[CONVT3D__POSITIONS];
    memcpy(here, at, sizeof here);
    for (; here[4] < m->p->axis[2].out; here[4] += n) {
        n = convt3d__pass_load(m, here, v);
        *sum = convt3d__merge(*sum, convt3d__moments_of(v, n));
    }
}

static void convt3d__measure(const convt3d__pass *m, int64_t unit)
{
    memset(m->moments + unit * m->p->desc.out_channels, 0, (size_t)m->p->desc.out_channels * sizeof *m->moments);
    convt3d__pass_rows(m, unit, convt3d__measure_row);
}

/* One running statistic, where the caller keeps it. */
static void convt3d__run_on(const convt3d__plan *p, void *running, int64_t set, double momentum, double found)
{
    double value;
    if (!running) return;
    value = (1 - momentum) * convt3d__vector_at(p, running, set, 0) + momentum * found;
    convt3d__store(convt3d__wide(p->desc.dtype), running, set, 1, 1, &value);
}

/* Mean and rstd of one set, from the moments of its channels and parts; the statistics that the caller wants. */
static void convt3d__settle(const convt3d__pass *m, int64_t set)
{
    const convt3d_op *op = &m->p->desc.ops[m->norm];
    const convt3d_op_io *tensors = &m->io->ops[m->norm];
    int64_t channels = m->p->desc.out_channels, n, first, count = 1, samples = m->p->desc.batch, part, c;
    int32_t wide = convt3d__wide(m->p->desc.dtype);
    convt3d__moments all = {0, 0, 0};
    double *found = m->set + 2 * set;
    n = 0;  first = set;
    if (op->kind == CONVT3D_OP_GROUP_NORM) {
        count = channels / op->groups;
        n = set / op->groups;  first = set % op->groups * count;  samples = n + 1;
    }
    for (; n < samples; n++)
        for (part = 0; part < m->parts; part++)
            for (c = first; c < first + count; c++)
                all = convt3d__merge(all, m->moments[(n * m->parts + part) * channels + c]);
    found[0] = all.mean;
    found[1] = 1 / sqrt(all.m2 / all.count + op->a);
    if (tensors->mean) convt3d__store(wide, tensors->mean, set, 1, 1, &found[0]);
    if (tensors->rstd) convt3d__store(wide, tensors->rstd, set, 1, 1, &found[1]);
    convt3d__run_on(m->p, tensors->running_mean, set, op->b, all.mean);
    convt3d__run_on(m->p, tensors->running_var, set, op->b, all.m2 / (all.count - 1));
}

/* What the normalisation makes of a channel's values: (v - mean)*scale + shift. */
static void convt3d__norm_coefficients(const convt3d__pass *m, const int64_t at[5], double *mean, double *scale,
                                       double *shift)
{
    const convt3d_op *op = &m->p->desc.ops[m->norm];
    const convt3d_op_io *tensors = &m->io->ops[m->norm];
    int64_t set = at[1];
    if (op->kind == CONVT3D_OP_GROUP_NORM) set = at[0] * op->groups + at[1] / (m->p->desc.out_channels / op->groups);
    *mean = m->set[2 * set];
    *scale = m->set[2 * set + 1] * convt3d__vector_at(m->p, tensors->scale, at[1], 1);
    *shift = convt3d__vector_at(m->p, tensors->shift, at[1], 0);
}

static void convt3d__finish_row(const convt3d__pass *m, int64_t unit, const int64_t at[5])
{
    int64_t here[5], n, j;
    int32_t norm = m->norm < m->end;
    double v[CONVT3D__POSITIONS], mean = 0, scale = 1, shift = 0;
    (void)unit;
    if (norm) convt3d__norm_coefficients(m, at, &mean, &scale, &shift);
    memcpy(here, at, sizeof here);
    for (; here[4] < m->p->axis[2].out; here[4] += n) {
        n = convt3d__pass_load(m, here, v);
        if (norm) for (j = 0; j < n; j++) v[j] = (v[j] - mean) * scale + shift;
        if (norm) convt3d__apply(m->p, m->io, m->norm + 1, m->end, here, 1, v, n);
        convt3d__store(m->to_dtype, m->to, convt3d__offset(here, m->to_stride), m->to_stride[4], n, v);
    }
}

static void convt3d__finish(const convt3d__pass *m, int64_t unit)
{
    convt3d__pass_rows(m, unit, convt3d__finish_row);
}

/* body for all units on the threads of the plan; the result does not depend on which does what. */
static void convt3d__for_each(const convt3d__pass *m, int64_t units, void (*body)(const convt3d__pass *m, int64_t unit))
{
    int64_t i;
#ifdef _OPENMP
    int threads = convt3d__threads(m->p, units);
#pragma omp parallel for num_threads(threads) schedule(dynamic) if(threads > 1)
#endif
    for (i = 0; i < units; i++) body(m, i);
}

static void convt3d__cut_rows(convt3d__pass *m)
{
    m->rows = m->p->axis[0].out * m->p->axis[1].out;
    m->parts = convt3d__moment_parts(m->p);
    m->part_rows = convt3d__ceil_div(m->rows, m->parts);
}

static convt3d_status convt3d__run_pass(const convt3d__plan *p, const convt3d_io *io, int32_t index,
                                        convt3d_error *error)
{
    convt3d__pass m;
    int last;
    m.p = p;  m.io = io;  m.begin = index;
    m.norm = convt3d__next_norm(p, index);
    m.end = convt3d__pass_end(p, index);
    last = m.end == p->op_count;
    m.from = convt3d__stored_at(p, io, index);
    m.to = last ? io->y : convt3d__stored_at(p, io, m.end);
    m.to_dtype = last ? p->desc.dtype : p->between;
    m.to_stride = last ? p->desc.y_stride : p->stored_stride;
    convt3d__cut_rows(&m);
    m.moments = (convt3d__moments *)convt3d__workspace_part(p, io->workspace, 0);
    m.set = (double *)(m.moments + p->desc.batch * m.parts * p->desc.out_channels);
    if (m.norm < m.end) {
        convt3d__for_each(&m, p->desc.batch * m.parts, convt3d__measure);
        convt3d__for_each(&m, convt3d__norm_sets(p, m.norm), convt3d__settle);
    }
    convt3d__for_each(&m, p->desc.batch * m.parts, convt3d__finish);
    return convt3d__ok(error);
}

/* --------------------------------------------------------------------------------------------------------------------
 * The list taken back on the CPU, from dy to the gradient g of the convolution's output. Nothing is kept but what the
 * forward pass saved: every pass over the tensors computes the list's values again. For each normalisation, from the
 * last to the first, one takes the sums that its gradient needs; the one after them writes g and the list's gradients.
 */
/* d, the gradient of what an entry gives, becomes that of its argument v; from_output: v is what it gave. */
static void convt3d__back_function(const convt3d_op *op, int from_output, const double *v, double *d, int64_t n)
{
    double a = op->a, b = op->b, s, t;
    int64_t j;
    switch (op->kind) {
    case CONVT3D_OP_AFFINE:      for (j = 0; j < n; j++) d[j] *= a;  break;
    case CONVT3D_OP_CLAMP:       for (j = 0; j < n; j++) d[j] = v[j] >= a && v[j] <= b ? d[j] : 0;  break;
    case CONVT3D_OP_RELU:        for (j = 0; j < n; j++) d[j] = v[j] <= 0 ? 0 : d[j];  break;
    case CONVT3D_OP_RELU6:       for (j = 0; j < n; j++) d[j] = v[j] <= 0 || v[j] >= 6 ? 0 : d[j];  break;
    case CONVT3D_OP_LEAKY_RELU:  for (j = 0; j < n; j++) d[j] = v[j] > 0 ? d[j] : a * d[j];  break;
    case CONVT3D_OP_SILU:
        for (j = 0; j < n; j++) { s = 1 / (1 + exp(-v[j]));  d[j] *= s * (1 + v[j] / (1 + exp(v[j]))); }
        break;
    case CONVT3D_OP_SIGMOID:
        for (j = 0; j < n; j++) { s = from_output ? v[j] : 1 / (1 + exp(-v[j]));  d[j] *= s * (1 - s); }
        break;
    case CONVT3D_OP_TANH:
        for (j = 0; j < n; j++) { t = from_output ? v[j] : tanh(v[j]);  d[j] *= (1 - t) * (1 + t); }
        break;
    case CONVT3D_OP_GELU:        /* the normal distribution and v times its density */
        for (j = 0; j < n; j++)
            d[j] *= 0.5 * erfc(-0.7071067811865476 * v[j]) + v[j] * 0.3989422804014327 * exp(-0.5 * v[j] * v[j]);
        break;
    case CONVT3D_OP_GELU_TANH:
        for (j = 0; j < n; j++) {
            t = tanh(0.7978845608028654 * (v[j] + 0.044715 * v[j] * v[j] * v[j]));
            d[j] *= 0.5 * (1 + t) + 0.5 * v[j] * (1 - t) * (1 + t) * 0.7978845608028654 * (1 + 0.134145 * v[j] * v[j]);
        }
        break;
    case CONVT3D_OP_HARDSWISH:
        for (j = 0; j < n; j++) d[j] = v[j] <= -3 ? 0 : v[j] < 3 ? d[j] * (v[j] / 3 + 0.5) : d[j];
        break;
    case CONVT3D_OP_HARDSIGMOID: for (j = 0; j < n; j++) d[j] = v[j] > -3 && v[j] < 3 ? d[j] / 6 : 0;  break;
    case CONVT3D_OP_ELU:
        for (j = 0; j < n; j++) d[j] = v[j] > 0 ? d[j] : d[j] * (from_output ? v[j] + a : a * exp(v[j]));
        break;
    case CONVT3D_OP_SOFTPLUS:
        for (j = 0; j < n; j++) d[j] = a * v[j] > b ? d[j] : d[j] / (1 + exp(-a * v[j]));
        break;
    case CONVT3D_OP_MISH:
        for (j = 0; j < n; j++) {
            t = tanh(convt3d__softplus(v[j]));
            d[j] *= t + v[j] * (1 - t) * (1 + t) / (1 + exp(-v[j]));
        }
        break;
    default: break;
    }
}

/* Mean and rstd that the forward pass found for a normalisation and the channel of at[]. */
static int64_t convt3d__saved_set(const convt3d__pass *m, int32_t index, const int64_t at[5], double *mean,
                                  double *rstd)
{
    const convt3d_op *op = &m->p->desc.ops[index];
    int64_t set = at[1];
    if (op->kind == CONVT3D_OP_GROUP_NORM) set = at[0] * op->groups + at[1] / (m->p->desc.out_channels / op->groups);
    *mean = convt3d__vector_at(m->p, m->io->ops[index].mean, set, 0);
    *rstd = convt3d__vector_at(m->p, m->io->ops[index].rstd, set, 0);
    return set;
}

static double *convt3d__back_sums(const convt3d__pass *m, int32_t index, int64_t unit, int64_t channel)
{
    int64_t units = m->p->desc.batch * m->parts, slot = convt3d__scale_slot(m->p, index);
    return m->sums + 2 * ((slot * units + unit) * m->p->desc.out_channels + channel);
}

static double *convt3d__back_means(const convt3d__pass *m, int32_t index, int64_t set)
{
    return m->means + 2 * (convt3d__scale_slot(m->p, index) * m->p->desc.batch * m->p->desc.out_channels + set);
}

typedef double convt3d__list_values[CONVT3D_MAX_OPS][CONVT3D__POSITIONS];

/* v[i], what entry i was given, up to the last entry that wants it; or what the last entry gave. */
static void convt3d__list_values_of(const convt3d__pass *m, const int64_t at[5], int64_t n, convt3d__list_values v)
{
    const convt3d__plan *p = m->p;
    double mean, rstd, shift;
    int64_t j;
    int32_t i;
    if (p->saves == CONVT3D_SAVES_OUTPUT)
        convt3d__load(p->desc.dtype, m->io->y, convt3d__offset(at, p->desc.y_stride), p->desc.y_stride[4], n,
                      v[p->curved]);
    if (p->saves != CONVT3D_SAVES_CONVOLUTION) return;
    convt3d__load(p->desc.dtype, m->io->saved, convt3d__offset(at, p->stored_stride), p->stored_stride[4], n, v[0]);
    for (i = 0; i < p->curved; i++) {
        memcpy(v[i + 1], v[i], (size_t)n * sizeof(double));
        if (!(convt3d__op_uses(p->desc.ops[i].kind) & CONVT3D_USES_STATISTICS)) {
            convt3d__apply(p, m->io, i, i + 1, at, 1, v[i + 1], n);
            continue;
        }
        convt3d__saved_set(m, i, at, &mean, &rstd);
        rstd *= convt3d__vector_at(p, m->io->ops[i].scale, at[1], 1);
        shift = convt3d__vector_at(p, m->io->ops[i].shift, at[1], 0);
        for (j = 0; j < n; j++) v[i + 1][j] = (v[i][j] - mean) * rstd + shift;
    }
}

/* Adds to the sums of entry `index` and a channel: of d times v, normalised for a normalisation, and of d. */
static void convt3d__back_measure(const convt3d__pass *m, int32_t index, int64_t unit, const int64_t at[5],
                                  const double *v, const double *d, int64_t n)
{
    double *sum = convt3d__back_sums(m, index, unit, at[1]), mean = 0, rstd = 1;
    int64_t j;
    if (convt3d__op_uses(m->p->desc.ops[index].kind) & CONVT3D_USES_STATISTICS)
        convt3d__saved_set(m, index, at, &mean, &rstd);
    for (j = 0; j < n; j++) { sum[0] += d[j] * ((v[j] - mean) * rstd);  sum[1] += d[j]; }
}

/* Through a normalisation: rstd * (d*scale - mean of it - normalised v * mean of it times normalised v). */
static void convt3d__back_norm(const convt3d__pass *m, int32_t index, const int64_t at[5], const double *v, double *d,
                               int64_t n)
{
    double mean, rstd, scale = convt3d__vector_at(m->p, m->io->ops[index].scale, at[1], 1);
    const double *means = convt3d__back_means(m, index, convt3d__saved_set(m, index, at, &mean, &rstd));
    int64_t j;
    for (j = 0; j < n; j++) d[j] = rstd * (d[j] * scale - means[1] - (v[j] - mean) * rstd * means[0]);
}

/* An entry with a residual: its gradient, if wanted, and d before it. */
static void convt3d__back_residual(const convt3d__pass *m, int32_t index, const int64_t at[5], const double *v,
                                   double *d, int64_t n)
{
    const convt3d_op *op = &m->p->desc.ops[index];
    const convt3d_op_io *tensors = &m->io->ops[index];
    double other[CONVT3D__POSITIONS];
    int64_t j;
    if (tensors->d_residual) {
        for (j = 0; j < n; j++) other[j] = op->kind == CONVT3D_OP_MULTIPLY ? d[j] * v[j] : d[j];
        convt3d__store_gradient(m->p, CONVT3D_BACKWARD_OPS, m->p->desc.dtype, tensors->d_residual,
                                convt3d__offset(at, m->p->stored_stride), m->p->stored_stride[4], n, other);
    }
    if (op->kind != CONVT3D_OP_MULTIPLY) return;
    convt3d__load(m->p->desc.dtype, tensors->residual, convt3d__offset(at, op->stride), op->stride[4], n, other);
    for (j = 0; j < n; j++) d[j] *= other[j];
}

/* n values from at[] on, from dy down to entry m->norm, whose sums are taken, or through all of the list. */
static void convt3d__back_values(const convt3d__pass *m, int64_t unit, const int64_t at[5], int64_t n)
{
    const convt3d__plan *p = m->p;
    convt3d__list_values v;
    double d[CONVT3D__POSITIONS], scale;
    int64_t j;
    int32_t i;
    convt3d__list_values_of(m, at, n, v);
    convt3d__load(p->desc.dtype, m->io->dy, convt3d__offset(at, p->desc.dy_stride), p->desc.dy_stride[4], n, d);
    for (i = p->op_count - 1; i > m->norm; i--) {
        const convt3d_op *op = &p->desc.ops[i];
        int32_t uses = convt3d__op_uses(op->kind);
        if (uses & CONVT3D_USES_STATISTICS) {
            convt3d__back_norm(m, i, at, v[i], d, n);
        } else if (op->kind == CONVT3D_OP_CHANNEL_AFFINE) {
            if (m->norm < 0 && (p->pass & CONVT3D_BACKWARD_OPS)) convt3d__back_measure(m, i, unit, at, v[i], d, n);
            scale = convt3d__vector_at(p, m->io->ops[i].scale, at[1], 1);
            for (j = 0; j < n; j++) d[j] *= scale;
        } else if (uses & CONVT3D_USES_RESIDUAL) {
            if (m->norm < 0) convt3d__back_residual(m, i, at, v[i], d, n);
            else if (op->kind == CONVT3D_OP_MULTIPLY) convt3d__apply(p, m->io, i, i + 1, at, 1, d, n);
        } else {
            convt3d__back_function(op, p->saves == CONVT3D_SAVES_OUTPUT, v[i], d, n);
        }
    }
    if (m->norm >= 0) convt3d__back_measure(m, m->norm, unit, at, v[m->norm], d, n);
    else if (m->to)
        convt3d__store(p->desc.dtype, m->to, convt3d__offset(at, p->stored_stride), p->stored_stride[4], n, d);
}

static void convt3d__back_row(const convt3d__pass *m, int64_t unit, const int64_t at[5])
{
    int64_t here[5], n;
    memcpy(here, at, sizeof here);
    for (; here[4] < m->p->axis[2].out; here[4] += n) {
        n = convt3d__min(CONVT3D__POSITIONS, m->p->axis[2].out - here[4]);
        convt3d__back_values(m, unit, here, n);
    }
}

/* One part of one sample. Each pass takes the sums of its normalisation, the last one those of the scales between. */
static void convt3d__back_part(const convt3d__pass *m, int64_t unit)
{
    int32_t i;
    for (i = 0; i < m->p->op_count; i++)
        if (i == m->norm || (m->norm < 0 && m->p->desc.ops[i].kind == CONVT3D_OP_CHANNEL_AFFINE))
            memset(convt3d__back_sums(m, i, unit, 0), 0, (size_t)m->p->desc.out_channels * 2 * sizeof(double));
    convt3d__pass_rows(m, unit, convt3d__back_row);
}

/* What the gradient through one set of the normalisation m->norm needs: means of d*scale*normalised v and d*scale. */
static void convt3d__back_settle(const convt3d__pass *m, int64_t set)
{
    const convt3d_op *op = &m->p->desc.ops[m->norm];
    int64_t channels = m->p->desc.out_channels, units = m->p->desc.batch * m->parts, first = set, count = 1, unit = 0, c;
    double *mean = convt3d__back_means(m, m->norm, set), scale, values;
    if (op->kind == CONVT3D_OP_GROUP_NORM) {
        count = channels / op->groups;
        first = set % op->groups * count;
        unit = set / op->groups * m->parts;
        units = unit + m->parts;
    }
    values = (double)(units - unit) / (double)m->parts * (double)count * (double)m->rows * (double)m->p->axis[2].out;
    for (mean[0] = mean[1] = 0; unit < units; unit++)
        for (c = first; c < first + count; c++) {
            scale = convt3d__vector_at(m->p, m->io->ops[m->norm].scale, c, 1);
            mean[0] += scale * convt3d__back_sums(m, m->norm, unit, c)[0];
            mean[1] += scale * convt3d__back_sums(m, m->norm, unit, c)[1];
        }
    mean[0] /= values;
    mean[1] /= values;
}

/* The gradients of scale[c] and shift[c] of entry m->begin. */
static void convt3d__back_vectors(const convt3d__pass *m, int64_t c)
{
    const convt3d_op_io *tensors = &m->io->ops[m->begin];
    int32_t wide = convt3d__wide(m->p->desc.dtype);
    double scale = 0, shift = 0;
    int64_t unit;
    for (unit = 0; unit < m->p->desc.batch * m->parts; unit++) {
        scale += convt3d__back_sums(m, m->begin, unit, c)[0];
        shift += convt3d__back_sums(m, m->begin, unit, c)[1];
    }
    if (tensors->d_scale) convt3d__store_gradient(m->p, CONVT3D_BACKWARD_OPS, wide, tensors->d_scale, c, 1, 1, &scale);
    if (tensors->d_shift) convt3d__store_gradient(m->p, CONVT3D_BACKWARD_OPS, wide, tensors->d_shift, c, 1, 1, &shift);
}

static void convt3d__list_backward(const convt3d__plan *p, const convt3d_io *io, void *g)
{
    convt3d__pass m;
    int32_t i;
    memset(&m, 0, sizeof m);
    m.p = p;  m.io = io;  m.to = g;
    convt3d__cut_rows(&m);
    m.sums = (double *)convt3d__workspace_part(p, io->workspace, 0);
    m.means = m.sums + 2 * convt3d__scale_slot(p, p->op_count) * p->desc.batch * m.parts * p->desc.out_channels;
    for (m.norm = p->op_count - 1; m.norm >= -1; m.norm--) {
        if (m.norm >= 0 && !(convt3d__op_uses(p->desc.ops[m.norm].kind) & CONVT3D_USES_STATISTICS)) continue;
        convt3d__for_each(&m, p->desc.batch * m.parts, convt3d__back_part);
        if (m.norm >= 0) convt3d__for_each(&m, convt3d__norm_sets(p, m.norm), convt3d__back_settle);
    }
    for (i = 0; i < p->op_count; i++) {
        m.begin = i;
        if (io->ops[i].d_scale || io->ops[i].d_shift) convt3d__for_each(&m, p->desc.out_channels, convt3d__back_vectors);
    }
}

/* --------------------------------------------------------------------------------------------------------------------
 * Choosing a kernel
 */
static convt3d_status convt3d__run(const convt3d__plan *p, const convt3d_io *io, convt3d_error *error);
static int32_t convt3d__flipped_refuses(convt3d__plan *p, char why[96]);
static double convt3d__flipped_cost(const convt3d__plan *p);
static int64_t convt3d__flipped_workspace(const convt3d__plan *p);
static int64_t convt3d__flipped_packed(const convt3d__plan *p);
static convt3d_status convt3d__flipped_pack(const convt3d__plan *p, const void *w, void *packed, void *stream,
                                            convt3d_error *error);
static convt3d_status convt3d__flipped_run(const convt3d__plan *p, const convt3d_io *io, convt3d_error *error);
static convt3d_status convt3d__flipped_ready(const convt3d__plan *p, convt3d_error *error);

static const convt3d__backend convt3d__own_backends[] = {
    {"reference", CONVT3D_DEVICE_CPU, CONVT3D_FORWARD, 1, convt3d__reference_refuses, convt3d__reference_cost,
     convt3d__no_workspace, convt3d__plain_pack, NULL, convt3d__reference_run, NULL,
     CONVT3D__FUSES_LIST | CONVT3D__FUSES_WIDE},
    {"reference", CONVT3D_DEVICE_CPU, CONVT3D_BACKWARD_X, 0, convt3d__reference_refuses, convt3d__reference_cost,
     convt3d__no_workspace, convt3d__plain_pack, NULL, convt3d__reference_dx, NULL, 0},
    {"reference", CONVT3D_DEVICE_CPU, CONVT3D_BACKWARD_W, 0, convt3d__reference_refuses, convt3d__reference_cost,
     convt3d__no_workspace, convt3d__plain_pack, NULL, convt3d__reference_dw, NULL, 0},
    {"flipped", CONVT3D_DEVICE_CPU, CONVT3D_BACKWARD_X, 0, convt3d__flipped_refuses, convt3d__flipped_cost,
     convt3d__flipped_workspace, convt3d__flipped_packed, convt3d__flipped_pack, convt3d__flipped_run,
     convt3d__flipped_ready, 0},
#ifdef CONVT3D_CUDA
    {"cuda_flipped", CONVT3D_DEVICE_CUDA, CONVT3D_BACKWARD_X, 0, convt3d__flipped_refuses, convt3d__flipped_cost,
     convt3d__flipped_workspace, convt3d__flipped_packed, convt3d__flipped_pack, convt3d__flipped_run,
     convt3d__flipped_ready, 0},
#endif
};
enum { CONVT3D__OWN_BACKENDS = (int)(sizeof convt3d__own_backends / sizeof convt3d__own_backends[0]) };

/* Row i of the table of back ends, NULL past its end. */
static const convt3d__backend *convt3d__backend_at(int32_t i)
{
    if (i < CONVT3D__OWN_BACKENDS) return &convt3d__own_backends[i];
    i -= CONVT3D__OWN_BACKENDS;
#ifdef CONVT3D_CPU_FAST
    if (i < convt3d__cpu_backend_count) return &convt3d__cpu_backends[i];
    i -= convt3d__cpu_backend_count;
#endif
#ifdef CONVT3D_CUDA
    if (i < convt3d__cuda_backend_count) return &convt3d__cuda_backends[i];
#endif
    return NULL;
}

/* What lies between the kernel and the passes after it; 0 where the workspace for it does not fit 64 bits. A kernel that
 * leaves residuals to a pass applies them itself where what lies between would take more than half of workspace_limit. */
static int convt3d__stage_for(convt3d__plan *plan, const convt3d__backend *backend)
{
    const int32_t norm = convt3d__next_norm(plan, 0);
    int32_t fused = 0;
    if (!(backend->fuses & CONVT3D__FUSES_LIST)) return convt3d__resolve_stage(plan, 0);
    while (fused < norm && !(convt3d__op_uses(plan->desc.ops[fused].kind) & CONVT3D_USES_RESIDUAL)) fused++;
    if (!(backend->fuses & CONVT3D__LEAVES_RESIDUALS) || fused == norm) return convt3d__resolve_stage(plan, norm);
    return (convt3d__resolve_stage(plan, fused) &&
            (plan->desc.workspace_limit == 0 || plan->stage <= plan->desc.workspace_limit / 2)) ||
           convt3d__resolve_stage(plan, norm);
}

/* The workspace's parts together, with room to align them; 0 where they do not fit 64 bits. */
static int convt3d__sum_workspace(convt3d__plan *plan)
{
    int64_t slack = plan->statistics > 0 || plan->stage > 0 ? 2 * convt3d__stage_alignment(plan) : 0;
    return convt3d__add(plan->row_workspace, slack, &plan->workspace) &&
           convt3d__add(plan->workspace, plan->statistics, &plan->workspace) &&
           convt3d__add(plan->workspace, plan->stage, &plan->workspace);
}

/* A plan's choice of a kernel, kept and taken again. */
static convt3d__choice convt3d__choice_of(const convt3d__plan *p)
{
    convt3d__choice choice;
    memset(&choice, 0, sizeof choice);          /* plans are compared as bytes */
    choice.row = p->row;
    choice.row_workspace = p->row_workspace;
    choice.packed = p->packed;
    choice.pack_variant = p->pack_variant;
    memcpy(choice.state, p->state, sizeof choice.state);
    return choice;
}

static void convt3d__take_choice(convt3d__plan *p, const convt3d__choice *choice)
{
    p->row = choice->row;
    p->row_workspace = choice->row_workspace;
    p->packed = choice->packed;
    p->pack_variant = choice->pack_variant;
    memcpy(p->state, choice->state, sizeof p->state);
}

/* Why row i cannot serve the plan; 0 if it can, and then *plan is what it would run. */
static int32_t convt3d__row_refuses(convt3d__plan *plan, int32_t i, char why[96])
{
    const convt3d__backend *backend = convt3d__backend_at(i);
    convt3d__text text;
    int64_t y_stride[5];
    int32_t refused;
    why[0] = 0;
    plan->row = i;
    plan->pack_variant = 0;
    text.at = why;  text.room = 96;  text.length = 0;
    if (!convt3d__stage_for(plan, backend)) {
        convt3d__put(&text, "needs more workspace than 64 bits count");
        return 1;
    }
    if (plan->stored != plan->desc.dtype && !(backend->fuses & CONVT3D__FUSES_WIDE)) {
        convt3d__put(&text, "cannot leave the output unrounded for the rest of the list");
        return 1;
    }
    memcpy(y_stride, plan->desc.y_stride, sizeof y_stride);
    memcpy(plan->desc.y_stride, plan->stored_stride, sizeof y_stride);
    refused = backend->refuses(plan, why);
    if (!refused) plan->row_workspace = backend->workspace(plan);
    if (!refused) plan->packed = backend->packed(plan);
    memcpy(plan->desc.y_stride, y_stride, sizeof y_stride);
    if (refused) return 1;
    if (!convt3d__sum_workspace(plan)) {
        convt3d__put(&text, "needs more workspace than 64 bits count");
        return 1;
    }
    if (plan->desc.workspace_limit == 0 || plan->workspace <= plan->desc.workspace_limit) return 0;
    convt3d__put(&text, "needs ");
    convt3d__put_int(&text, plan->workspace);
    convt3d__put(&text, " bytes of workspace, more than workspace_limit = ");
    convt3d__put_int(&text, plan->desc.workspace_limit);
    return 1;
}

/* force: the name wanted, "" for any. */
static int32_t convt3d__row_fits(const convt3d__plan *p, const char *force, int32_t i)
{
    const convt3d__backend *backend = convt3d__backend_at(i);
    return backend->device == p->desc.device && backend->pass == p->pass &&
           (force[0] == 0 || strcmp(force, backend->name) == 0);
}

/* force = "NAME": why. detail has room for both. */
static void convt3d__refusal(char detail[160], const char *name, const char *why)
{
    convt3d__text text;
    text.at = detail;  text.room = 160;  text.length = 0;
    convt3d__put(&text, name);
    convt3d__put(&text, "\" refuses this problem: ");
    convt3d__put(&text, why);
}

/* Seconds for what is left of the list: each pass reads and writes the output, a normalisation reads it once more. */
static double convt3d__pass_cost(const convt3d__plan *p)
{
    double bytes = (double)p->y_count * (double)convt3d__element_size(p->stored), seconds = 0;
    double rate = p->desc.device == CONVT3D_DEVICE_CUDA ? 3e12 : 5e9;
    int32_t i;
    for (i = p->fused; i < p->op_count; i = convt3d__pass_end(p, i))
        seconds += (convt3d__next_norm(p, i) < p->op_count ? 3 : 2) * bytes / rate;
    return seconds;
}

/* The cheapest kernel of p->pass that takes the problem, of the name `force` unless it is "". */
static convt3d_status convt3d__choose(convt3d__plan *p, const char *force, convt3d_error *e)
{
    convt3d__plan best = *p;
    char why[96] = "", detail[160];
    double least = 0;
    int32_t i, found = 0, known = 0;
    for (i = 0; convt3d__backend_at(i); i++) {
        convt3d__plan candidate = *p;
        double cost;
        if (!convt3d__row_fits(p, force, i)) continue;
        known = 1;
        if (convt3d__row_refuses(&candidate, i, why)) continue;
        cost = convt3d__backend_at(i)->cost(&candidate) + convt3d__pass_cost(&candidate);
        if (found && cost >= least) continue;
        best = candidate;  least = cost;  found = 1;
    }
    if (!known && force[0]) return convt3d__fail(e, CONVT3D_KERNEL_UNKNOWN, "force", -1, 0, 0, force);
    if (!found && force[0]) {
        convt3d__refusal(detail, force, why);
        return convt3d__fail(e, CONVT3D_REFUSED, "force", -1, 0, 0, detail);
    }
    if (!found) return convt3d__fail(e, CONVT3D_NO_KERNEL, "", -1, 0, 0, why);
    *p = best;
    return CONVT3D_OK;
}

/* FNV-1a over what the packed weights depend on: kernel, geometry of w, phases, machine. */
static uint64_t convt3d__hash(uint64_t hash, const void *data, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)data;
    while (size-- > 0) hash = (hash ^ *bytes++) * UINT64_C(0x100000001b3);
    return hash;
}

static uint64_t convt3d__pack_tag_of(const convt3d__plan *p)
{
    const char *name = convt3d__backend_at(p->row)->name;
    uint64_t hash = convt3d__hash(UINT64_C(0xcbf29ce484222325), CONVT3D_VERSION, sizeof CONVT3D_VERSION);
    int32_t backward = p->pass != CONVT3D_FORWARD;
    hash = convt3d__hash(hash, name, strlen(name));
    hash = convt3d__hash(hash, &backward, sizeof backward);
    hash = convt3d__hash(hash, &p->desc.in_channels, sizeof p->desc.in_channels);
    hash = convt3d__hash(hash, &p->desc.out_channels, sizeof p->desc.out_channels);
    hash = convt3d__hash(hash, &p->desc.groups, sizeof p->desc.groups);
    hash = convt3d__hash(hash, p->desc.kernel, sizeof p->desc.kernel);
    hash = convt3d__hash(hash, p->desc.stride, sizeof p->desc.stride);
    hash = convt3d__hash(hash, p->desc.dilation, sizeof p->desc.dilation);
    hash = convt3d__hash(hash, &p->desc.dtype, sizeof p->desc.dtype);
    hash = convt3d__hash(hash, &p->desc.math, sizeof p->desc.math);
    hash = convt3d__hash(hash, &p->pack_variant, sizeof p->pack_variant);
    hash = convt3d__hash(hash, &p->cuda_arch, sizeof p->cuda_arch);
    return hash >> 1 | 1;       /* never 0, and positive as an int64_t, for the error's text */
}

/* Loads what the plan's kernel, and what follows or precedes it, want loaded. */
static convt3d_status convt3d__make_ready(const convt3d__plan *p, convt3d_error *e)
{
    const convt3d__backend *backend = convt3d__backend_at(p->row);
    convt3d_status status;
    if (backend->ready && (status = backend->ready(p, e)) != CONVT3D_OK) return status;
#ifdef CONVT3D_CUDA
    if (p->desc.device == CONVT3D_DEVICE_CUDA) return convt3d__cuda_pass_ready(p, e);
#endif
    return CONVT3D_OK;
}

/* --------------------------------------------------------------------------------------------------------------------
 * dx of unit stride is a forward problem: dy is its input, w with channels exchanged and taps reversed its weights, and
 * padding becomes dilation*(kernel - 1) - padding. So every forward kernel serves it. What is there already is a
 * residual.
 */
/* Bytes of the weights, padded to the part behind them. refuses() has seen that they fit. */
static int64_t convt3d__flipped_bytes(const convt3d__plan *p)
{
    int64_t unit = convt3d__stage_alignment(p);
    return convt3d__ceil_div(p->w_count * convt3d__element_size(p->desc.dtype), unit) * unit;
}

/* The forward problem without its kernel; *error says what is wrong with it. */
static convt3d_status convt3d__flipped_problem(const convt3d__plan *p, convt3d__plan *forward, convt3d_error *error)
{
    convt3d_desc d;
    convt3d_status status;
    int32_t a;
    memset(&d, 0, sizeof d);
    d.batch = p->desc.batch;  d.in_channels = p->desc.out_channels;  d.out_channels = p->desc.in_channels;
    d.groups = p->desc.groups;  d.fixed_out_size = 1;
    for (a = 0; a < 3; a++) {
        d.in_size[a] = p->axis[a].out;  d.out_size[a] = p->axis[a].in;
        d.kernel[a] = p->axis[a].kernel;  d.dilation[a] = p->axis[a].dilation;
        d.padding[a] = d.dilation[a] * (d.kernel[a] - 1) - p->axis[a].padding;
    }
    d.dtype = p->desc.dtype;  d.layout = p->desc.layout;  d.device = p->desc.device;
    d.math = p->desc.math;  d.threads = p->desc.threads;
    d.alignment = p->desc.alignment;  d.cuda_arch = p->desc.cuda_arch;
    if (p->desc.workspace_limit > 0)
        d.workspace_limit = convt3d__max(1, p->desc.workspace_limit - convt3d__flipped_bytes(p) -
                                            convt3d__stage_alignment(p));
    memcpy(d.x_stride, p->desc.dy_stride, sizeof d.x_stride);
    memcpy(d.y_stride, p->desc.dx_stride, sizeof d.y_stride);
    if (p->desc.accumulate & CONVT3D_BACKWARD_X) {
        d.ops[0].kind = CONVT3D_OP_ADD;
        memcpy(d.ops[0].stride, p->desc.dx_stride, sizeof d.y_stride);
    }
    if ((status = convt3d__resolve(forward, &d, error)) != CONVT3D_OK) return status;
    forward->cuda_device = p->cuda_device;  forward->cuda_arch = p->cuda_arch;
    forward->multiprocessors = p->multiprocessors;
    return CONVT3D_OK;
}

/* Chooses the forward kernel. What the choice depends on may be another at run time (threads, a limit that the list took
 * from), so it is kept in the plan. */
static int32_t convt3d__flipped_refuses(convt3d__plan *p, char why[96])
{
    convt3d__plan forward;
    convt3d_error error;
    convt3d__text text;
    int64_t unit = convt3d__stage_alignment(p), bytes, unused;
    text.at = why;  text.room = 96;  text.length = 0;
    if (p->axis[0].stride != 1 || p->axis[1].stride != 1 || p->axis[2].stride != 1) {
        convt3d__put(&text, "wants a stride of 1");
        return 1;
    }
    if (p->x_count == 0 || p->y_count == 0) {
        convt3d__put(&text, "wants tensors that are not empty");
        return 1;
    }
    if (p->w_count > (INT64_MAX / 4 - unit) / convt3d__element_size(p->desc.dtype)) {
        convt3d__put(&text, "needs more workspace than 64 bits count");
        return 1;
    }
    if (convt3d__flipped_problem(p, &forward, &error) != CONVT3D_OK ||
        convt3d__choose(&forward, "", &error) != CONVT3D_OK) {
        convt3d__put(&text, "the forward problem: ");
        convt3d__put(&text, error.text);
        return 1;
    }
    bytes = convt3d__flipped_bytes(p);
    if (!convt3d__add(forward.workspace, bytes + unit, &unused) || !convt3d__add(forward.packed, bytes, &unused)) {
        convt3d__put(&text, "needs more workspace than 64 bits count");
        return 1;
    }
    p->forward = convt3d__choice_of(&forward);
    p->pack_variant = convt3d__hash(convt3d__pack_tag_of(&forward), &bytes, sizeof bytes);
    return 0;
}

/* The forward problem with the kernel that was chosen for it. */
static void convt3d__flipped_known(const convt3d__plan *p, convt3d__plan *forward)
{
    (void)convt3d__flipped_problem(p, forward, NULL);
    convt3d__take_choice(forward, &p->forward);
    (void)convt3d__stage_for(forward, convt3d__backend_at(forward->row));
    (void)convt3d__sum_workspace(forward);
    forward->pack_tag = convt3d__pack_tag_of(forward);
}

static double convt3d__flipped_cost(const convt3d__plan *p)
{
    convt3d__plan forward;
    convt3d__flipped_known(p, &forward);
    return convt3d__backend_at(forward.row)->cost(&forward) + convt3d__pass_cost(&forward) +
           (p->desc.device == CONVT3D_DEVICE_CUDA ? 2e-6 : 1e-9 * (double)p->w_count);
}

static int64_t convt3d__flipped_workspace(const convt3d__plan *p)
{
    convt3d__plan forward;
    convt3d__flipped_known(p, &forward);
    return forward.workspace + convt3d__flipped_bytes(p) + convt3d__stage_alignment(p);
}

static int64_t convt3d__flipped_packed(const convt3d__plan *p)
{
    convt3d__plan forward;
    convt3d__flipped_known(p, &forward);
    return forward.packed + convt3d__flipped_bytes(p);
}

/* flipped[g][oc][ic][-k] = w[g][ic][oc][k], channels within their group. */
static void convt3d__flip(const convt3d__plan *p, const void *w, void *flipped)
{
    int64_t size = convt3d__element_size(p->desc.dtype), c, oc, k;
    for (c = 0; c < p->desc.in_channels; c++)
        for (oc = 0; oc < p->out_group; oc++) {
            int64_t g = c / p->in_group, ic = c % p->in_group;
            const char *from = (const char *)w + (c * p->out_group + oc) * p->taps * size;
            char *to = (char *)flipped + ((g * p->out_group + oc) * p->in_group + ic) * p->taps * size;
            for (k = 0; k < p->taps; k++) memcpy(to + (p->taps - 1 - k) * size, from + k * size, (size_t)size);
        }
}

static convt3d_status convt3d__flip_on(const convt3d__plan *p, const void *w, void *flipped, void *stream,
                                       convt3d_error *error)
{
#ifdef CONVT3D_CUDA
    if (p->desc.device == CONVT3D_DEVICE_CUDA) return convt3d__cuda_flip(p, w, flipped, stream, error);
#endif
    (void)stream;
    convt3d__flip(p, w, flipped);
    return convt3d__ok(error);
}

/* The pack: the flipped weights, which the forward kernel's own pack follows. */
static convt3d_status convt3d__flipped_pack(const convt3d__plan *p, const void *w, void *packed, void *stream,
                                            convt3d_error *error)
{
    convt3d__plan forward;
    convt3d_status status = convt3d__flip_on(p, w, packed, stream, error);
    char *own = (char *)packed + convt3d__flipped_bytes(p);
    convt3d__flipped_known(p, &forward);
    if (status != CONVT3D_OK || !convt3d__backend_at(forward.row)->pack) return status;
    return convt3d__backend_at(forward.row)->pack(&forward, packed, own, stream, error);
}

static convt3d_status convt3d__flipped_run(const convt3d__plan *p, const convt3d_io *io, convt3d_error *error)
{
    convt3d__plan forward;
    convt3d_io to;
    convt3d_status status;
    uintptr_t unit = (uintptr_t)convt3d__stage_alignment(p);
    char *flipped = (char *)(((uintptr_t)io->workspace + unit - 1) / unit * unit);
    convt3d__flipped_known(p, &forward);
    memset(&to, 0, sizeof to);
    to.x = io->dy;  to.y = io->dx;  to.stream = io->stream;  to.alloc_context = io->alloc_context;
    if (p->desc.accumulate & CONVT3D_BACKWARD_X) to.ops[0].residual = io->dx;
    to.workspace = flipped + convt3d__flipped_bytes(p);
    to.workspace_bytes = forward.workspace;
    to.w = io->w_packed;
    if (io->w_packed && convt3d__backend_at(forward.row)->pack) {
        to.w = NULL;
        to.w_packed = (const char *)io->w_packed + convt3d__flipped_bytes(p);
        to.pack_tag = forward.pack_tag;
    } else if (!io->w_packed) {
        if ((status = convt3d__flip_on(p, io->w, flipped, io->stream, error)) != CONVT3D_OK) return status;
        to.w = flipped;
    }
    return convt3d__run(&forward, &to, error);
}

static convt3d_status convt3d__flipped_ready(const convt3d__plan *p, convt3d_error *error)
{
    convt3d__plan forward;
    convt3d__flipped_known(p, &forward);
    return convt3d__make_ready(&forward, error);
}

/* --------------------------------------------------------------------------------------------------------------------
 * Plans
 */
/* What a list's way back keeps in the workspace: sums, and g as the kernels of dx and dw read it. */
static int convt3d__resolve_back(convt3d__plan *p)
{
    int64_t each, slots = convt3d__scale_slot(p, p->op_count);
    p->stage = p->statistics = 0;
    if (p->op_count == 0) return 1;
    if (!convt3d__dense_output(p, p->desc.dtype, p->stored_stride, &p->stage)) return 0;
    if (!(p->pass & ~CONVT3D_BACKWARD_OPS)) p->stage = 0;
    return convt3d__mul(p->desc.batch * p->desc.out_channels, (convt3d__moment_parts(p) + 1) * 2 * slots, &each) &&
           convt3d__mul(each, 8, &p->statistics);
}

/* The problem of one kernel of a backward pass: its input is g, and the list is behind it. */
static void convt3d__back_part_plan(const convt3d__plan *p, int32_t bit, convt3d__plan *part)
{
    *part = *p;
    part->pass = bit;
    part->saves = CONVT3D_SAVES_NOTHING;
    if (p->op_count > 0) memcpy(part->desc.dy_stride, p->stored_stride, sizeof p->stored_stride);
    part->op_count = 0;
    if (bit != CONVT3D_BACKWARD_W) return;
    convt3d__take_choice(part, &p->weights);
    part->workspace = part->row_workspace;
}

static int convt3d__has_kernel(const convt3d__plan *p, int32_t pass, const char *name)
{
    int32_t i;
    for (i = 0; convt3d__backend_at(i); i++)
        if (convt3d__backend_at(i)->device == p->desc.device && convt3d__backend_at(i)->pass == pass &&
            strcmp(convt3d__backend_at(i)->name, name) == 0) return 1;
    return 0;
}

/* The kernel of one part of the pass. A name that only the other part knows leaves this one free. */
static convt3d_status convt3d__choose_part(const convt3d__plan *p, int32_t bit, int64_t spent, convt3d__plan *part,
                                           convt3d_error *e)
{
    const char *force = p->desc.force;
    int32_t other = bit == CONVT3D_BACKWARD_X ? CONVT3D_BACKWARD_W : CONVT3D_BACKWARD_X;
    int32_t others = other == CONVT3D_BACKWARD_X ? other : CONVT3D_BACKWARD_W | CONVT3D_BACKWARD_BIAS;
    convt3d_status status;
    if ((p->pass & others) && !convt3d__has_kernel(p, bit, force) && convt3d__has_kernel(p, other, force)) force = "";
    convt3d__back_part_plan(p, bit, part);
    if (p->desc.workspace_limit > 0) part->desc.workspace_limit = p->desc.workspace_limit - spent;
    if ((status = convt3d__choose(part, force, e)) != CONVT3D_OK) return status;
    part->desc.workspace_limit = p->desc.workspace_limit;
    return convt3d__make_ready(part, e);
}

static convt3d_status convt3d__plan_backward(convt3d__plan *p, convt3d_error *e)
{
    convt3d__plan part;
    convt3d__choice chosen;
    convt3d_status status;
    int64_t slack = 0, spent, most = 0;
    p->saves = convt3d__saves_for(p, p->desc.backward | p->pass, &p->curved);
    if (!convt3d__resolve_back(p)) return convt3d__fail(e, CONVT3D_DY_TOO_LARGE, "dy", -1, 0, (int64_t)PTRDIFF_MAX, "");
    if (p->stage > 0 || p->statistics > 0) slack = 2 * convt3d__stage_alignment(p);
    if (!convt3d__add(p->stage, p->statistics + slack, &spent))
        return convt3d__fail(e, CONVT3D_DY_TOO_LARGE, "dy", -1, 0, (int64_t)PTRDIFF_MAX, "");
    if (p->desc.workspace_limit > 0 && spent >= p->desc.workspace_limit)
        return convt3d__fail(e, CONVT3D_NO_KERNEL, "", -1, 0, 0, "the list's gradient needs more than workspace_limit");
    p->row = p->weights.row = -1;
    if (p->pass & (CONVT3D_BACKWARD_W | CONVT3D_BACKWARD_BIAS)) {
        if ((status = convt3d__choose_part(p, CONVT3D_BACKWARD_W, spent, &part, e)) != CONVT3D_OK) return status;
        p->weights = convt3d__choice_of(&part);
        most = part.workspace;
    }
    if (p->pass & CONVT3D_BACKWARD_X) {
        if ((status = convt3d__choose_part(p, CONVT3D_BACKWARD_X, spent, &part, e)) != CONVT3D_OK) return status;
        chosen = convt3d__choice_of(&part);
        convt3d__take_choice(p, &chosen);
        p->forward = part.forward;
        p->pack_tag = convt3d__pack_tag_of(p);
        most = convt3d__max(most, part.workspace);
    }
    p->row_workspace = most;
    if (!convt3d__add(most, spent, &p->workspace))
        return convt3d__fail(e, CONVT3D_DY_TOO_LARGE, "dy", -1, 0, (int64_t)PTRDIFF_MAX, "");
#ifdef CONVT3D_CUDA
    if (p->desc.device == CONVT3D_DEVICE_CUDA) return convt3d__cuda_pass_ready(p, e);
#endif
    return CONVT3D_OK;
}

static convt3d_status convt3d__plan_forward(convt3d__plan *p, convt3d_error *e)
{
    convt3d_status status = convt3d__choose(p, p->desc.force, e);
    if (status == CONVT3D_OK) status = convt3d__make_ready(p, e);
    p->pack_tag = status == CONVT3D_OK ? convt3d__pack_tag_of(p) : 0;
    return status;
}

static convt3d_status convt3d__make_plan(convt3d__plan *p, const convt3d_desc *desc, int32_t pass, convt3d_error *e)
{
    convt3d_status status = convt3d__resolve(p, desc, e);
    if (status) return status;
    if (pass < CONVT3D_FORWARD || pass > CONVT3D_BACKWARD)
        return convt3d__fail(e, CONVT3D_PASS_UNKNOWN, "pass", -1, pass, CONVT3D_BACKWARD, "");
    if (p->desc.device == CONVT3D_DEVICE_CUDA) {
#ifdef CONVT3D_CUDA
        if ((status = convt3d__cuda_find(p, e)) != CONVT3D_OK) return status;
#else
        return convt3d__fail(e, CONVT3D_CUDA_ABSENT, "device", -1, p->desc.device, 0, "");
#endif
    }
    p->pass = pass;
    status = pass == CONVT3D_FORWARD ? convt3d__plan_forward(p, e) : convt3d__plan_backward(p, e);
    if (status) return status;
    p->magic = CONVT3D__PLAN_MAGIC;
    return convt3d__ok(e);
}

/* The plan inside the opaque one; 0 if it is none. */
static int convt3d__open(const convt3d_plan *plan, convt3d__plan *p)
{
    if (!plan) return 0;
    memcpy(p, plan, sizeof *p);
    return p->magic == CONVT3D__PLAN_MAGIC;
}

/* --------------------------------------------------------------------------------------------------------------------
 * Checks of one call's pointers
 */
typedef struct convt3d__range { uintptr_t begin, end; } convt3d__range;     /* bytes */

static convt3d__range convt3d__range_of(const void *pointer, int64_t bytes)
{
    convt3d__range range;
    range.begin = (uintptr_t)pointer;
    range.end = range.begin + (pointer ? (uintptr_t)bytes : 0);
    return range;
}

static int convt3d__ranges_meet(convt3d__range a, convt3d__range b) { return a.begin < b.end && b.begin < a.end; }

/* Extent that the axes whose stride is no multiple of the pitch span inside one pitch. */
static int64_t convt3d__inner_extent(const int64_t stride[5], const int64_t size[5], int64_t pitch)
{
    int64_t extent = 1;
    int32_t i;
    for (i = 0; i < 5; i++) if (stride[i] % pitch != 0) extent += stride[i] * (size[i] - 1);
    return extent;
}

/* 1 if y and another tensor, whose address ranges meet, are seen to share no element: both are slices of one pitch (a
 * stride of either) that lie side by side within it, as the channel slices of a concatenation do. */
static int convt3d__interleaved(const convt3d__plan *p, const void *other, const int64_t stride[5],
                                const int64_t size[5], const void *y)
{
    int64_t element = convt3d__element_size(p->desc.dtype), y_size[5], pitch, gap, inner, inner_y;
    uintptr_t distance = (uintptr_t)y - (uintptr_t)other;
    int32_t i, backwards = (uintptr_t)y < (uintptr_t)other;
    if (backwards) distance = 0 - distance;
    if (distance % (uintptr_t)element != 0) return 0;
    convt3d__out_sizes(p, y_size);
    for (i = 0; i < 10; i++) {
        pitch = i < 5 ? stride[i] : p->desc.y_stride[i - 5];
        if (pitch < 2) continue;
        inner = convt3d__inner_extent(stride, size, pitch);
        inner_y = convt3d__inner_extent(p->desc.y_stride, y_size, pitch);
        gap = (int64_t)(distance / (uintptr_t)element % (uintptr_t)pitch);
        if (backwards && gap > 0) gap = pitch - gap;
        if (inner <= gap && gap + inner_y <= pitch) return 1;
    }
    return 0;
}

/* The small tensors of one entry of the list. */
typedef struct convt3d__small { const char *name[6]; convt3d__range range[6]; } convt3d__small;

static convt3d__small convt3d__small_of(const convt3d__plan *p, const convt3d_io *io, int32_t i)
{
    static const char *const names[6] = {"scale", "shift", "mean", "rstd", "running_mean", "running_var"};
    const convt3d_op_io *t = &io->ops[i];
    int64_t wide = convt3d__element_size(convt3d__wide(p->desc.dtype)), count;
    const void *pointer[6];
    convt3d__small small;
    int32_t k;
    pointer[0] = t->scale;  pointer[1] = t->shift;  pointer[2] = t->mean;
    pointer[3] = t->rstd;  pointer[4] = t->running_mean;  pointer[5] = t->running_var;
    for (k = 0; k < 6; k++) {
        count = k == 2 || k == 3 ? convt3d__norm_sets(p, i) : p->desc.out_channels;
        small.name[k] = names[k];
        small.range[k] = convt3d__range_of(pointer[k], count * wide);
    }
    return small;
}

/* The tensors of one entry of the list beside y: a residual may be y itself, once. */
static convt3d_status convt3d__check_op_aliases(const convt3d__plan *p, const convt3d_io *io, int32_t i,
                                                convt3d__range y, int32_t *same, convt3d_error *e)
{
    const convt3d_op_io *t = &io->ops[i];
    convt3d__small small = convt3d__small_of(p, io, i);
    int64_t element = convt3d__element_size(p->desc.dtype), size[5];
    int32_t k;
    convt3d__out_sizes(p, size);
    if (t->residual == io->y && t->residual && memcmp(p->desc.ops[i].stride, p->desc.y_stride, sizeof size) == 0) {
        if ((*same)++ > 0) return convt3d__fail(e, CONVT3D_OP_ALIASED, "residual", i, 0, 0, "");
    } else if (convt3d__ranges_meet(y, convt3d__range_of(t->residual, p->residual_extent[i] * element)) &&
               !convt3d__interleaved(p, t->residual, p->desc.ops[i].stride, size, io->y)) {
        return convt3d__fail(e, CONVT3D_OP_ALIASED, "residual", i, 0, 0, "");
    }
    for (k = 0; k < 6; k++)
        if (convt3d__ranges_meet(y, small.range[k]))
            return convt3d__fail(e, CONVT3D_OP_ALIASED, small.name[k], i, 0, 0, "");
    return CONVT3D_OK;
}

/* saved, where the forward pass writes it, beside all that the pass reads or writes elsewhere. */
static convt3d_status convt3d__check_saved_aliases(const convt3d__plan *p, const convt3d_io *io, convt3d_error *e)
{
    int64_t element = convt3d__element_size(p->desc.dtype);
    convt3d__range saved = convt3d__range_of(io->saved, p->y_count * element);
    struct { const char *name; const void *pointer; int64_t bytes; } other[6];
    convt3d__small small;
    int32_t i, k;
    other[0].name = "x";         other[0].pointer = io->x;         other[0].bytes = p->x_extent * element;
    other[1].name = "w";         other[1].pointer = io->w;         other[1].bytes = p->w_count * element;
    other[2].name = "w_packed";  other[2].pointer = io->w_packed;  other[2].bytes = p->packed;
    other[3].name = "bias";      other[3].pointer = io->bias;      other[3].bytes = p->desc.out_channels * element;
    other[4].name = "y";         other[4].pointer = io->y;         other[4].bytes = p->y_extent * element;
    other[5].name = "workspace"; other[5].pointer = io->workspace; other[5].bytes = p->workspace;
    for (i = 0; i < 6; i++)
        if (convt3d__ranges_meet(saved, convt3d__range_of(other[i].pointer, other[i].bytes)))
            return convt3d__fail(e, CONVT3D_OUTPUT_ALIASED, "saved", -1, 0, 0, other[i].name);
    for (i = 0; i < p->op_count; i++) {
        if (convt3d__ranges_meet(saved, convt3d__range_of(io->ops[i].residual, p->residual_extent[i] * element)))
            return convt3d__fail(e, CONVT3D_OUTPUT_ALIASED, "saved", i, 0, 0, "residual");
        small = convt3d__small_of(p, io, i);
        for (k = 0; k < 6; k++)
            if (convt3d__ranges_meet(saved, small.range[k]))
                return convt3d__fail(e, CONVT3D_OUTPUT_ALIASED, "saved", i, 0, 0, small.name[k]);
    }
    return CONVT3D_OK;
}

static convt3d_status convt3d__check_aliases(const convt3d__plan *p, const convt3d_io *io, convt3d_error *e)
{
    int64_t element = convt3d__element_size(p->desc.dtype);
    convt3d__range y = convt3d__range_of(io->y, p->y_extent * element);
    int64_t x_size[5];
    int32_t i, same = 0;
    convt3d_status s;
    x_size[0] = p->desc.batch;  x_size[1] = p->desc.in_channels;
    for (i = 0; i < 3; i++) x_size[2 + i] = p->axis[i].in;
    for (i = 0; i < p->op_count; i++)
        if ((s = convt3d__check_op_aliases(p, io, i, y, &same, e)) != CONVT3D_OK) return s;
    if (convt3d__ranges_meet(y, convt3d__range_of(io->x, p->x_extent * element)) &&
        !convt3d__interleaved(p, io->x, p->desc.x_stride, x_size, io->y))
        return convt3d__fail(e, CONVT3D_ALIASED, "x", -1, 0, 0, "");
    if (convt3d__ranges_meet(y, convt3d__range_of(io->w, p->w_count * element)))
        return convt3d__fail(e, CONVT3D_ALIASED, "w", -1, 0, 0, "");
    if (convt3d__ranges_meet(y, convt3d__range_of(io->w_packed, p->packed)))
        return convt3d__fail(e, CONVT3D_ALIASED, "w_packed", -1, 0, 0, "");
    if (convt3d__ranges_meet(y, convt3d__range_of(io->bias, p->desc.out_channels * element)))
        return convt3d__fail(e, CONVT3D_ALIASED, "bias", -1, 0, 0, "");
    if (convt3d__ranges_meet(y, convt3d__range_of(io->workspace, p->workspace)))
        return convt3d__fail(e, CONVT3D_ALIASED, "workspace", -1, 0, 0, "");
    return convt3d__check_saved_aliases(p, io, e);
}

static convt3d_status convt3d__check_pointer(const void *pointer, const char *field, int64_t alignment,
                                             int32_t required, convt3d_error *e)
{
    if (!pointer && required) return convt3d__fail(e, CONVT3D_NULL_ARGUMENT, field, -1, 0, 0, "");
    if ((uintptr_t)pointer % (uintptr_t)alignment != 0)
        return convt3d__fail(e, CONVT3D_MISALIGNED, field, -1, 0, alignment, "");
    return CONVT3D_OK;
}

/* Whether the way back through the list reads the residual of entry i. */
static int convt3d__back_reads_residual(const convt3d__plan *p, int32_t i)
{
    return p->desc.ops[i].kind == CONVT3D_OP_MULTIPLY || (p->saves == CONVT3D_SAVES_CONVOLUTION && i < p->curved);
}

/* Which tensors an entry of the list needs, may have and must not be given. */
static convt3d_status convt3d__check_op_io(const convt3d__plan *p, const convt3d_io *io, int32_t i, convt3d_error *e)
{
    const convt3d_op_io *t = &io->ops[i];
    int32_t kind = i < p->op_count ? p->desc.ops[i].kind : CONVT3D_OP_END, uses = convt3d__op_uses(kind), k;
    int32_t keeps = p->pass != CONVT3D_FORWARD || p->desc.backward != 0;
    struct { const char *name; const void *pointer; int32_t of; } part[10];
    int64_t size;
    part[0].name = "residual";      part[0].pointer = t->residual;      part[0].of = CONVT3D_USES_RESIDUAL;
    part[1].name = "d_residual";    part[1].pointer = t->d_residual;    part[1].of = CONVT3D_USES_RESIDUAL;
    part[2].name = "scale";         part[2].pointer = t->scale;         part[2].of = CONVT3D_USES_SCALE;
    part[3].name = "shift";         part[3].pointer = t->shift;         part[3].of = CONVT3D_USES_SCALE;
    part[4].name = "d_scale";       part[4].pointer = t->d_scale;       part[4].of = CONVT3D_USES_SCALE;
    part[5].name = "d_shift";       part[5].pointer = t->d_shift;       part[5].of = CONVT3D_USES_SCALE;
    part[6].name = "mean";          part[6].pointer = t->mean;          part[6].of = CONVT3D_USES_STATISTICS;
    part[7].name = "rstd";          part[7].pointer = t->rstd;          part[7].of = CONVT3D_USES_STATISTICS;
    part[8].name = "running_mean";  part[8].pointer = t->running_mean;  part[8].of = CONVT3D_USES_RUNNING;
    part[9].name = "running_var";   part[9].pointer = t->running_var;   part[9].of = CONVT3D_USES_RUNNING;
    for (k = 0; k < 10; k++) {
        if (!(uses & part[k].of) && part[k].pointer)
            return convt3d__fail(e, CONVT3D_OP_TENSOR_UNUSED, part[k].name, i, 0, 0, convt3d_op_name(kind));
        size = convt3d__element_size(k < 2 ? p->desc.dtype : convt3d__wide(p->desc.dtype));
        if ((uintptr_t)part[k].pointer % (uintptr_t)size != 0)
            return convt3d__fail(e, CONVT3D_OP_MISALIGNED, part[k].name, i, 0, size, "");
        if (k >= 6 && k < 8 && keeps && (uses & part[k].of) && !part[k].pointer && p->y_count > 0)
            return convt3d__fail(e, CONVT3D_OP_TENSOR_MISSING, part[k].name, i, 0, 0, "");
    }
    if (!(uses & CONVT3D_USES_RESIDUAL) || t->residual) return CONVT3D_OK;
    if (p->pass != CONVT3D_FORWARD && (p->y_count == 0 || !convt3d__back_reads_residual(p, i))) return CONVT3D_OK;
    return convt3d__fail(e, CONVT3D_OP_TENSOR_MISSING, "residual", i, 0, 0, "");
}

static convt3d_status convt3d__check_workspace(const convt3d__plan *p, const convt3d_io *io, convt3d_error *e)
{
    if (p->workspace > 0 && !io->workspace) return convt3d__fail(e, CONVT3D_NULL_ARGUMENT, "workspace", -1, 0, 0, "");
    if (io->workspace_bytes < p->workspace)
        return convt3d__fail(e, CONVT3D_WORKSPACE_TOO_SMALL, "workspace_bytes", -1, io->workspace_bytes, p->workspace, "");
    return CONVT3D_OK;
}

static convt3d_status convt3d__check_io(const convt3d__plan *p, const convt3d_io *io, convt3d_error *e)
{
    int64_t alignment = p->desc.alignment;
    int32_t keeps = p->saves == CONVT3D_SAVES_CONVOLUTION, i;
    convt3d_status s;
    if (io->w && io->w_packed) return convt3d__fail(e, CONVT3D_W_AND_PACKED, "w_packed", -1, 0, 0, "");
    if ((s = convt3d__check_pointer(io->x, "x", alignment, p->x_count > 0, e)) != CONVT3D_OK) return s;
    if ((s = convt3d__check_pointer(io->w, "w", alignment, !io->w_packed, e)) != CONVT3D_OK) return s;
    if ((s = convt3d__check_pointer(io->w_packed, "w_packed", alignment, 0, e)) != CONVT3D_OK) return s;
    if ((s = convt3d__check_pointer(io->bias, "bias", convt3d__element_size(p->desc.dtype), 0, e)) != CONVT3D_OK) return s;
    if ((s = convt3d__check_pointer(io->y, "y", alignment, 1, e)) != CONVT3D_OK) return s;
    if ((s = convt3d__check_pointer(io->saved, "saved", alignment, keeps, e)) != CONVT3D_OK) return s;
    if (io->saved && !keeps) return convt3d__fail(e, CONVT3D_SAVED_UNUSED, "saved", -1, 0, 0, "");
    for (i = 0; i < CONVT3D_MAX_OPS; i++)
        if ((s = convt3d__check_op_io(p, io, i, e)) != CONVT3D_OK) return s;
    if (io->w_packed && io->pack_tag != p->pack_tag)
        return convt3d__fail(e, CONVT3D_PACK_MISMATCH, "pack_tag", -1, (int64_t)io->pack_tag, (int64_t)p->pack_tag, "");
    if ((s = convt3d__check_workspace(p, io, e)) != CONVT3D_OK) return s;
    return convt3d__check_aliases(p, io, e);
}

/* --------------------------------------------------------------------------------------------------------------------
 * Checks of a backward call's pointers
 */
typedef struct convt3d__tensor { const char *name; convt3d__range range; } convt3d__tensor;

enum { CONVT3D__MOST_TENSORS = 12 + 8 * CONVT3D_MAX_OPS };

typedef struct convt3d__tensors { convt3d__tensor list[CONVT3D__MOST_TENSORS]; int32_t count; } convt3d__tensors;

static void convt3d__list_tensor(convt3d__tensors *t, const char *name, const void *pointer, int64_t bytes)
{
    if (!pointer) return;
    t->list[t->count].name = name;
    t->list[t->count++].range = convt3d__range_of(pointer, bytes);
}

/* The tensors that the pass writes. */
static void convt3d__gradients_of(const convt3d__plan *p, const convt3d_io *io, convt3d__tensors *t)
{
    int64_t element = convt3d__element_size(p->desc.dtype), wide = convt3d__element_size(convt3d__wide(p->desc.dtype));
    int32_t i;
    t->count = 0;
    convt3d__list_tensor(t, "dx", io->dx, p->dx_extent * element);
    convt3d__list_tensor(t, "dw", io->dw, p->w_count * element);
    convt3d__list_tensor(t, "dbias", io->dbias, p->desc.out_channels * element);
    convt3d__list_tensor(t, "workspace", io->workspace, p->workspace);
    for (i = 0; i < p->op_count; i++) {
        convt3d__list_tensor(t, "d_residual", io->ops[i].d_residual, p->y_count * element);
        convt3d__list_tensor(t, "d_scale", io->ops[i].d_scale, p->desc.out_channels * wide);
        convt3d__list_tensor(t, "d_shift", io->ops[i].d_shift, p->desc.out_channels * wide);
    }
}

static void convt3d__backward_inputs_of(const convt3d__plan *p, const convt3d_io *io, convt3d__tensors *t)
{
    int64_t element = convt3d__element_size(p->desc.dtype), wide = convt3d__element_size(convt3d__wide(p->desc.dtype));
    int32_t i;
    t->count = 0;
    convt3d__list_tensor(t, "dy", io->dy, p->dy_extent * element);
    convt3d__list_tensor(t, "x", io->x, p->x_extent * element);
    convt3d__list_tensor(t, "w", io->w, p->w_count * element);
    convt3d__list_tensor(t, "w_packed", io->w_packed, p->packed);
    convt3d__list_tensor(t, "y", io->y, p->y_extent * element);
    convt3d__list_tensor(t, "saved", io->saved, p->y_count * element);
    for (i = 0; i < p->op_count; i++) {
        convt3d__list_tensor(t, "residual", io->ops[i].residual, p->residual_extent[i] * element);
        convt3d__list_tensor(t, "scale", io->ops[i].scale, p->desc.out_channels * wide);
        convt3d__list_tensor(t, "shift", io->ops[i].shift, p->desc.out_channels * wide);
        convt3d__list_tensor(t, "mean", io->ops[i].mean, convt3d__norm_sets(p, i) * wide);
        convt3d__list_tensor(t, "rstd", io->ops[i].rstd, convt3d__norm_sets(p, i) * wide);
    }
}

static convt3d_status convt3d__check_gradient_aliases(const convt3d__plan *p, const convt3d_io *io, convt3d_error *e)
{
    convt3d__tensors written, read;
    int32_t i, j;
    convt3d__gradients_of(p, io, &written);
    convt3d__backward_inputs_of(p, io, &read);
    for (i = 0; i < written.count; i++) {
        for (j = 0; j < read.count; j++)
            if (convt3d__ranges_meet(written.list[i].range, read.list[j].range))
                return convt3d__fail(e, CONVT3D_OUTPUT_ALIASED, written.list[i].name, -1, 0, 0, read.list[j].name);
        for (j = 0; j < i; j++)
            if (convt3d__ranges_meet(written.list[i].range, written.list[j].range))
                return convt3d__fail(e, CONVT3D_OUTPUT_ALIASED, written.list[i].name, -1, 0, 0, written.list[j].name);
    }
    return CONVT3D_OK;
}

/* That nothing is asked for which the plan's pass does not compute. */
static convt3d_status convt3d__check_planned(const convt3d__plan *p, const convt3d_io *io, convt3d_error *e)
{
    struct { const char *name; const void *pointer; int32_t bit; } wanted[6];
    int32_t i, k;
    wanted[0].name = "dx";          wanted[0].pointer = io->dx;     wanted[0].bit = CONVT3D_BACKWARD_X;
    wanted[1].name = "dw";          wanted[1].pointer = io->dw;     wanted[1].bit = CONVT3D_BACKWARD_W;
    wanted[2].name = "dbias";       wanted[2].pointer = io->dbias;  wanted[2].bit = CONVT3D_BACKWARD_BIAS;
    wanted[3].name = "d_residual";  wanted[4].name = "d_scale";     wanted[5].name = "d_shift";
    wanted[3].bit = wanted[4].bit = wanted[5].bit = CONVT3D_BACKWARD_OPS;
    for (i = 0; i < CONVT3D_MAX_OPS; i++) {
        wanted[3].pointer = io->ops[i].d_residual;
        wanted[4].pointer = io->ops[i].d_scale;
        wanted[5].pointer = io->ops[i].d_shift;
        for (k = 0; k < 6; k++)
            if (wanted[k].pointer && !(p->pass & wanted[k].bit))
                return convt3d__fail(e, CONVT3D_GRADIENT_NOT_PLANNED, wanted[k].name, k < 3 ? -1 : i, p->pass, 0, "");
    }
    return CONVT3D_OK;
}

static convt3d_status convt3d__check_backward_io(const convt3d__plan *p, const convt3d_io *io, convt3d_error *e)
{
    int64_t alignment = p->desc.alignment, element = convt3d__element_size(p->desc.dtype);
    int32_t data = p->y_count > 0, i;
    convt3d_status s;
    if ((s = convt3d__check_planned(p, io, e)) != CONVT3D_OK) return s;
    if (io->w && io->w_packed) return convt3d__fail(e, CONVT3D_W_AND_PACKED, "w_packed", -1, 0, 0, "");
    if ((s = convt3d__check_pointer(io->dy, "dy", alignment, data, e)) != CONVT3D_OK) return s;
    if ((s = convt3d__check_pointer(io->x, "x", alignment, io->dw && p->x_count > 0, e)) != CONVT3D_OK) return s;
    if ((s = convt3d__check_pointer(io->w, "w", alignment, io->dx && !io->w_packed, e)) != CONVT3D_OK) return s;
    if ((s = convt3d__check_pointer(io->w_packed, "w_packed", alignment, 0, e)) != CONVT3D_OK) return s;
    if ((s = convt3d__check_pointer(io->y, "y", alignment, data && p->saves == CONVT3D_SAVES_OUTPUT, e)) != CONVT3D_OK)
        return s;
    if ((s = convt3d__check_pointer(io->saved, "saved", alignment, data && p->saves == CONVT3D_SAVES_CONVOLUTION, e)))
        return s;
    if ((s = convt3d__check_pointer(io->dx, "dx", alignment, 0, e)) != CONVT3D_OK) return s;
    if ((s = convt3d__check_pointer(io->dw, "dw", alignment, 0, e)) != CONVT3D_OK) return s;
    if ((s = convt3d__check_pointer(io->dbias, "dbias", element, 0, e)) != CONVT3D_OK) return s;
    for (i = 0; i < CONVT3D_MAX_OPS; i++)
        if ((s = convt3d__check_op_io(p, io, i, e)) != CONVT3D_OK) return s;
    if (io->dx && io->w_packed && io->pack_tag != p->pack_tag)
        return convt3d__fail(e, CONVT3D_PACK_MISMATCH, "pack_tag", -1, (int64_t)io->pack_tag, (int64_t)p->pack_tag, "");
    if ((s = convt3d__check_workspace(p, io, e)) != CONVT3D_OK) return s;
    return convt3d__check_gradient_aliases(p, io, e);
}

/* --------------------------------------------------------------------------------------------------------------------
 * The public calls
 */
CONVT3D_API convt3d_status convt3d_plan_init(convt3d_plan *plan, const convt3d_desc *desc, int32_t pass,
                                             convt3d_error *error)
{
    convt3d__plan p;
    convt3d_status status;
    if (!plan) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "plan", -1, 0, 0, "");
    memset(plan, 0, sizeof *plan);
    status = convt3d__make_plan(&p, desc, pass, error);
    if (status == CONVT3D_OK) memcpy(plan, &p, sizeof p);
    return status;
}

CONVT3D_API int64_t convt3d_workspace_size(const convt3d_plan *plan)
{
    convt3d__plan p;
    return convt3d__open(plan, &p) ? p.workspace : -1;
}

CONVT3D_API int64_t convt3d_packed_size(const convt3d_plan *plan)
{
    convt3d__plan p;
    return convt3d__open(plan, &p) ? p.packed : -1;
}

/* A kernel that has no pack of its own reads packed weights as it reads w. */
static convt3d_status convt3d__run_kernel(const convt3d__plan *p, convt3d_io *io, convt3d_error *error)
{
    const convt3d__backend *backend = convt3d__backend_at(p->row);
    if (!backend->pack && io->w_packed) { io->w = io->w_packed;  io->w_packed = NULL; }
    return backend->run(p, io, error);
}

static convt3d_status convt3d__run(const convt3d__plan *p, const convt3d_io *io, convt3d_error *error)
{
    convt3d__plan stored = *p;
    convt3d_io plain = *io;
    convt3d_status status;
    int32_t i;
    if (p->y_count == 0) return convt3d__ok(error);
    if ((status = convt3d__check_io(p, io, error)) != CONVT3D_OK) return status;
    memcpy(stored.desc.y_stride, p->stored_stride, sizeof p->stored_stride);
    plain.y = convt3d__stored_at(p, io, 0);
    status = convt3d__run_kernel(&stored, &plain, error);
    for (i = p->fused; i < p->op_count && status == CONVT3D_OK; i = convt3d__pass_end(p, i)) {
#ifdef CONVT3D_CUDA
        if (p->desc.device == CONVT3D_DEVICE_CUDA) { status = convt3d__cuda_pass(p, io, i, error);  continue; }
#endif
        status = convt3d__run_pass(p, io, i, error);
    }
    return status;
}

/* Whether one kernel makes both dx and dw of the plan, and both are wanted. */
static int convt3d__is_joint(const convt3d__plan *p, const convt3d_io *io)
{
    if (!io->dx || p->x_count == 0 || !(io->dw || io->dbias)) return 0;
    return (convt3d__backend_at(p->row)->fuses & CONVT3D__JOINT) &&
           strcmp(convt3d__backend_at(p->row)->name, convt3d__backend_at(p->weights.row)->name) == 0;
}

/* The list first, then dx and dw from what it leaves. */
static convt3d_status convt3d__run_backward(const convt3d__plan *p, const convt3d_io *io, convt3d_error *error)
{
    convt3d__plan part;
    convt3d_io to = *io;
    int joint;
    convt3d_status status = convt3d__check_backward_io(p, io, error);
    void *g = p->stage > 0 && (io->dx || io->dw || io->dbias) ? convt3d__workspace_part(p, io->workspace, 1) : NULL;
    if (status != CONVT3D_OK) return status;
    if (p->op_count > 0) {
#ifdef CONVT3D_CUDA
        if (p->desc.device == CONVT3D_DEVICE_CUDA) status = convt3d__cuda_list_backward(p, io, g, error);
        else
#endif
        convt3d__list_backward(p, io, g);
        to.dy = g;
    }
    joint = convt3d__is_joint(p, io);
    if (status == CONVT3D_OK && io->dx && p->x_count > 0) {
        convt3d__back_part_plan(p, CONVT3D_BACKWARD_X, &part);
        if (joint) part.pass |= CONVT3D_BACKWARD_W;
        status = convt3d__run_kernel(&part, &to, error);
    }
    if (status == CONVT3D_OK && (io->dw || io->dbias) && !joint) {
        int left = io->dx && p->x_count > 0 && (convt3d__backend_at(p->row)->fuses &
                                                convt3d__backend_at(p->weights.row)->fuses & CONVT3D__LEAVES_DY);
        convt3d__back_part_plan(p, CONVT3D_BACKWARD_W, &part);
        if (left) part.pass |= CONVT3D_BACKWARD_X;
        status = convt3d__run_kernel(&part, &to, error);
    }
    return status == CONVT3D_OK ? convt3d__ok(error) : status;
}

static convt3d_status convt3d__run_pass_of(const convt3d__plan *p, const convt3d_io *io, convt3d_error *error)
{
    return p->pass == CONVT3D_FORWARD ? convt3d__run(p, io, error) : convt3d__run_backward(p, io, error);
}

CONVT3D_API convt3d_status convt3d_run(const convt3d_plan *plan, const convt3d_io *io, convt3d_error *error)
{
    convt3d__plan p;
    if (!convt3d__open(plan, &p)) return convt3d__fail(error, CONVT3D_PLAN_INVALID, "plan", -1, 0, 0, "");
    if (!io) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "io", -1, 0, 0, "");
    return convt3d__run_pass_of(&p, io, error);
}

CONVT3D_API convt3d_status convt3d_pack_weights(const convt3d_plan *plan, const void *w, void *packed, uint64_t *tag,
                                                void *stream, convt3d_error *error)
{
    convt3d__plan p;
    const convt3d__backend *backend;
    convt3d_status status;
    if (!convt3d__open(plan, &p)) return convt3d__fail(error, CONVT3D_PLAN_INVALID, "plan", -1, 0, 0, "");
    if (!tag) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "tag", -1, 0, 0, "");
    if ((status = convt3d__check_pointer(w, "w", p.desc.alignment, 1, error)) != CONVT3D_OK) return status;
    if ((status = convt3d__check_pointer(packed, "packed", p.desc.alignment, 1, error)) != CONVT3D_OK) return status;
    if (p.pass != CONVT3D_FORWARD && !(p.pass & CONVT3D_BACKWARD_X))
        return convt3d__fail(error, CONVT3D_PACK_UNUSED, "plan", -1, p.pass, 0, "");
    backend = convt3d__backend_at(p.row);
    if (backend->pack) status = backend->pack(&p, w, packed, stream, error);
    else memcpy(packed, w, (size_t)p.packed);
    if (status != CONVT3D_OK) return status;
    *tag = p.pack_tag;
    return convt3d__ok(error);
}

/* The largest power of two, up to 256, that all the call's tensors are aligned to. */
static int64_t convt3d__alignment_of(const convt3d_io *io)
{
    uintptr_t all = (uintptr_t)io->x | (uintptr_t)io->w | (uintptr_t)io->w_packed | (uintptr_t)io->y |
                    (uintptr_t)io->saved | (uintptr_t)io->dy | (uintptr_t)io->dx | (uintptr_t)io->dw | 256;
    return (int64_t)(all & (~all + 1));
}

/* Plans, finds the workspace and runs on the CPU. */
static convt3d_status convt3d__call(const convt3d_desc *desc, const convt3d_io *io, int32_t pass, convt3d_error *error)
{
    convt3d_desc aligned = *desc;
    convt3d__plan p;
    convt3d_io with_workspace = *io;
    convt3d_status status;
    if ((status = convt3d__check_enums(&aligned, error)) != CONVT3D_OK) return status;
    if ((status = convt3d__check_options(&aligned, error)) != CONVT3D_OK) return status;
    /* Planned again for what is given; a pointer aligned to less than its element is found by check_io. */
    aligned.alignment = convt3d__max(convt3d__alignment_of(io), convt3d__element_size(desc->dtype));
    if ((status = convt3d__make_plan(&p, &aligned, pass, error)) != CONVT3D_OK) return status;
    with_workspace.workspace = NULL;
    with_workspace.workspace_bytes = p.workspace;
    if (p.workspace > 0 && (uint64_t)p.workspace <= (uint64_t)PTRDIFF_MAX)
        with_workspace.workspace = CONVT3D_MALLOC(io->alloc_context, (size_t)p.workspace);
    if (p.workspace > 0 && !with_workspace.workspace)
        return convt3d__fail(error, CONVT3D_OUT_OF_MEMORY, "workspace", -1, 0, p.workspace, "");
    status = convt3d__run_pass_of(&p, &with_workspace, error);
    if (with_workspace.workspace) CONVT3D_FREE(io->alloc_context, with_workspace.workspace);
    return status;
}

#ifdef CONVT3D_CUDA
static const convt3d__host_calls convt3d__calls = {convt3d_plan_init, convt3d__check_io, convt3d__check_backward_io,
                                                   convt3d_run, convt3d_slab};
#endif

CONVT3D_API convt3d_status convt3d(const convt3d_desc *desc, const convt3d_io *io, convt3d_error *error)
{
    if (!desc) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "desc", -1, 0, 0, "");
    if (!io) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "io", -1, 0, 0, "");
#ifdef CONVT3D_CUDA
    if (desc->device == CONVT3D_DEVICE_CUDA) return convt3d__cuda_call(desc, io, &convt3d__calls, error);
#endif
    return convt3d__call(desc, io, CONVT3D_FORWARD, error);
}

/* The bits of the gradients whose pointers are given. */
static int32_t convt3d__wanted(const convt3d_io *io)
{
    int32_t bits = 0, i;
    if (io->dx) bits |= CONVT3D_BACKWARD_X;
    if (io->dw) bits |= CONVT3D_BACKWARD_W;
    if (io->dbias) bits |= CONVT3D_BACKWARD_BIAS;
    for (i = 0; i < CONVT3D_MAX_OPS; i++)
        if (io->ops[i].d_residual || io->ops[i].d_scale || io->ops[i].d_shift) bits |= CONVT3D_BACKWARD_OPS;
    return bits;
}

CONVT3D_API convt3d_status convt3d_backward(const convt3d_desc *desc, const convt3d_io *io, convt3d_error *error)
{
    int64_t unused[3];
    int32_t wanted;
    if (!desc) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "desc", -1, 0, 0, "");
    if (!io) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "io", -1, 0, 0, "");
    wanted = convt3d__wanted(io);
    if (!wanted) return convt3d_output_size(desc, unused, error);       /* nothing but the checks */
#ifdef CONVT3D_CUDA
    if (desc->device == CONVT3D_DEVICE_CUDA) return convt3d__cuda_backward(desc, io, wanted, &convt3d__calls, error);
#endif
    return convt3d__call(desc, io, wanted, error);
}

/* Elements that a backward pass reads or writes. */
static double convt3d__backward_elements(const convt3d__plan *p)
{
    int32_t dw = (p->pass & CONVT3D_BACKWARD_W) != 0, dx = (p->pass & CONVT3D_BACKWARD_X) != 0, i;
    double count = (double)p->y_count + (dw + dx) * ((double)p->x_count + (double)p->w_count);
    if (p->pass & CONVT3D_BACKWARD_BIAS) count += (double)p->desc.out_channels;
    if (p->saves != CONVT3D_SAVES_NOTHING) count += (double)p->y_count;
    for (i = 0; i < p->op_count; i++) {
        int32_t kind = p->desc.ops[i].kind;
        if (!(convt3d__op_uses(kind) & CONVT3D_USES_RESIDUAL)) continue;
        if (convt3d__back_reads_residual(p, i)) count += (double)p->y_count;
        if (p->pass & CONVT3D_BACKWARD_OPS) count += (double)p->y_count;
    }
    return count;
}

static double convt3d__forward_elements(const convt3d__plan *p)
{
    double count = (double)p->x_count + (double)p->w_count + (double)p->y_count;
    int32_t i;
    if (p->saves == CONVT3D_SAVES_CONVOLUTION) count += (double)p->y_count;
    for (i = 0; i < p->op_count; i++)
        if (convt3d__op_uses(p->desc.ops[i].kind) & CONVT3D_USES_RESIDUAL) count += (double)p->y_count;
    return count;
}

static void convt3d__inform(const convt3d__plan *p, convt3d_info *info)
{
    int32_t forward = p->pass == CONVT3D_FORWARD, dx = (p->pass & CONVT3D_BACKWARD_X) != 0, a;
    const char *name = "", *weights = "";
    memset(info, 0, sizeof *info);
    if (forward || dx) name = convt3d__backend_at(p->row)->name;
    if (!forward && p->weights.row >= 0) *(dx ? &weights : &name) = convt3d__backend_at(p->weights.row)->name;
    memcpy(info->kernel, name, strlen(name));
    memcpy(info->weight_kernel, weights, strlen(weights));
    for (a = 0; a < 3; a++) info->out_size[a] = p->axis[a].out;
    info->workspace_bytes = p->workspace;
    info->packed_bytes = p->packed;
    info->flops = convt3d__flops(p) * (forward + dx + ((p->pass & CONVT3D_BACKWARD_W) != 0));
    info->bytes = (double)convt3d__element_size(p->desc.dtype) *
                  (forward ? convt3d__forward_elements(p) : convt3d__backward_elements(p));
    info->saves = p->saves;
    info->exact_slabs = forward && convt3d__backend_at(p->row)->exact_slabs;
}

CONVT3D_API convt3d_status convt3d_plan_info(const convt3d_plan *plan, convt3d_info *info, convt3d_error *error)
{
    convt3d__plan p;
    if (!convt3d__open(plan, &p)) return convt3d__fail(error, CONVT3D_PLAN_INVALID, "plan", -1, 0, 0, "");
    if (!info) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "info", -1, 0, 0, "");
    convt3d__inform(&p, info);
    return convt3d__ok(error);
}

static void convt3d__put_amount(convt3d__text *text, const char *label, double amount, const char *unit)
{
    convt3d__put(text, label);
    if (amount < 9e18) convt3d__put_int(text, (int64_t)amount);
    else convt3d__put(text, "more than 9e18");
    convt3d__put(text, unit);
}

static void convt3d__put_shape(convt3d__text *text, const char *label, int64_t channels, const convt3d__plan *p, int out)
{
    int32_t a;
    convt3d__put_amount(text, label, (double)p->desc.batch, " x ");
    convt3d__put_int(text, channels);
    for (a = 0; a < 3; a++) {
        convt3d__put(text, " x ");
        convt3d__put_int(text, out ? p->axis[a].out : p->axis[a].in);
    }
}

/* Every other kernel of a pass, the problem being that of one of its kernels. */
static void convt3d__put_refusals(convt3d__text *text, const convt3d__plan *p)
{
    char why[96];
    int32_t i;
    for (i = 0; convt3d__backend_at(i); i++) {
        convt3d__plan candidate = *p;
        if (i == p->row || !convt3d__row_fits(p, p->desc.force, i)) continue;
        convt3d__put(text, "\nnot taken  ");
        convt3d__put(text, convt3d__backend_at(i)->name);
        if (p->pass != CONVT3D_FORWARD) convt3d__put(text, p->pass == CONVT3D_BACKWARD_X ? " (dx)" : " (dw)");
        convt3d__put(text, ": ");
        convt3d__put(text, convt3d__row_refuses(&candidate, i, why) ? why : "expected to be slower");
    }
}

static void convt3d__put_all_refusals(convt3d__text *text, const convt3d__plan *p)
{
    convt3d__plan part;
    if (p->pass == CONVT3D_FORWARD) convt3d__put_refusals(text, p);
    if (p->pass & CONVT3D_BACKWARD_X) {
        convt3d__back_part_plan(p, CONVT3D_BACKWARD_X, &part);
        convt3d__put_refusals(text, &part);
    }
    if (p->pass & (CONVT3D_BACKWARD_W | CONVT3D_BACKWARD_BIAS)) {
        convt3d__back_part_plan(p, CONVT3D_BACKWARD_W, &part);
        convt3d__put_refusals(text, &part);
    }
}

/* The list, and how often the output is passed over for it. */
static void convt3d__put_ops(convt3d__text *text, const convt3d__plan *p)
{
    int32_t i, passes = 0;
    for (i = 0; i < p->op_count; i++) {
        convt3d__put(text, i == 0 ? "\nthen       " : ", ");
        convt3d__put(text, convt3d_op_name(p->desc.ops[i].kind));
        if (p->desc.ops[i].groups > 0) convt3d__put_amount(text, ":", (double)p->desc.ops[i].groups, "");
    }
    if (p->op_count == 0) return;
    convt3d__put(text, p->saves == CONVT3D_SAVES_NOTHING ? "" : p->saves == CONVT3D_SAVES_OUTPUT ?
                       "\nsaved      y" : "\nsaved      the convolution's output");
    if (p->pass != CONVT3D_FORWARD) return;
    convt3d__put_amount(text, "\nfused      the first ", (double)p->fused, " of the list");
    if (p->fused < p->op_count)
        convt3d__put(text, p->stage > 0 ? "; then from the workspace" : p->staged ? "; then to y" : "; then in y");
    for (i = p->fused; i < p->op_count; i = convt3d__pass_end(p, i)) passes++;
    if (passes > 0) convt3d__put_amount(text, ", passes: ", (double)passes, "");
}

static void convt3d__put_pass(convt3d__text *text, int32_t pass)
{
    convt3d__put(text, pass == CONVT3D_FORWARD ? "problem    forward" : "problem    backward");
    if (pass & CONVT3D_BACKWARD_X) convt3d__put(text, " dx");
    if (pass & CONVT3D_BACKWARD_W) convt3d__put(text, " dw");
    if (pass & CONVT3D_BACKWARD_BIAS) convt3d__put(text, " dbias");
    if (pass & CONVT3D_BACKWARD_OPS) convt3d__put(text, " list");
    convt3d__put(text, " ");
}

CONVT3D_API convt3d_status convt3d_explain(const convt3d_desc *desc, int32_t pass, char *buffer, size_t size,
                                           size_t *needed, convt3d_error *error)
{
    static const char *const dtypes[] = {"f32", "f64", "f16", "bf16"};
    convt3d__plan p;
    convt3d_info info;
    convt3d__text text;
    convt3d_status status = convt3d__make_plan(&p, desc, pass, error);
    if (status != CONVT3D_OK) return status;
    if (!buffer && size > 0) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "text", -1, 0, 0, "");
    convt3d__inform(&p, &info);
    text.at = buffer;  text.room = size;  text.length = 0;
    convt3d__put_pass(&text, pass);
    convt3d__put(&text, dtypes[p.desc.dtype]);
    convt3d__put(&text, p.desc.layout == CONVT3D_NCDHW ? " ncdhw" : " ndhwc");
    convt3d__put(&text, p.desc.device == CONVT3D_DEVICE_CPU ? " on the CPU" : " on CUDA");
    convt3d__put_shape(&text, "\nx          ", p.desc.in_channels, &p, 0);
    convt3d__put_shape(&text, "\ny          ", p.desc.out_channels, &p, 1);
    convt3d__put_ops(&text, &p);
    convt3d__put(&text, "\nkernel     ");
    convt3d__put(&text, info.kernel);
    if (info.weight_kernel[0]) convt3d__put(&text, ", weights ");
    convt3d__put(&text, info.weight_kernel);
    convt3d__put_amount(&text, "\nflops      ", info.flops, "");
    convt3d__put_amount(&text, "\nmoves      ", info.bytes, " bytes");
    convt3d__put_amount(&text, "\nworkspace  ", (double)info.workspace_bytes, " bytes");
    convt3d__put_amount(&text, "\npacked w   ", (double)info.packed_bytes, " bytes");
#ifdef CONVT3D_CUDA
    if (p.desc.device == CONVT3D_DEVICE_CUDA) {
        char card[256];
        convt3d__cuda_describe(&p, card);
        convt3d__put(&text, "\ncard       ");
        convt3d__put(&text, card);
    }
#endif
    if (pass == CONVT3D_FORWARD) convt3d__put(&text, info.exact_slabs ? "\nslabs      equal the whole bit for bit" :
                                                     "\nslabs      equal the whole within the bound");
    convt3d__put_all_refusals(&text, &p);
    convt3d__put(&text, "\n");
    if (needed) *needed = text.length;
    return convt3d__ok(error);
}

CONVT3D_API convt3d_status convt3d_device_count(int32_t *count, convt3d_error *error)
{
    if (!count) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "count", -1, 0, 0, "");
    *count = 0;
#ifdef CONVT3D_CUDA
    return convt3d__cuda_count(count, error);
#else
    return convt3d__fail(error, CONVT3D_CUDA_ABSENT, "device", -1, CONVT3D_DEVICE_CUDA, 0, "");
#endif
}

CONVT3D_API convt3d_status convt3d_output_size(const convt3d_desc *desc, int64_t out_size[3], convt3d_error *error)
{
    convt3d__plan p;
    convt3d_status status;
    int32_t a;
    if (!out_size) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "out_size", -1, 0, 0, "");
    if ((status = convt3d__resolve(&p, desc, error)) != CONVT3D_OK) return status;
    for (a = 0; a < 3; a++) out_size[a] = p.axis[a].out;
    return convt3d__ok(error);
}

CONVT3D_API convt3d_status convt3d_solve_output_padding(convt3d_desc *desc, const int64_t wanted[3],
                                                        convt3d_error *error)
{
    convt3d_desc trial;
    convt3d_status status;
    int64_t found[3];
    int32_t a;
    if (!desc) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "desc", -1, 0, 0, "");
    if (!wanted) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "wanted", -1, 0, 0, "");
    trial = *desc;
    trial.fixed_out_size = 0;
    for (a = 0; a < 3; a++) trial.output_padding[a] = trial.out_size[a] = 0;
    for (a = 0; a < 3; a++) {
        int64_t size, need = -1;
        status = convt3d__check_enums(&trial, error);
        if (!status) status = convt3d__check_axis(&trial, a, error);
        if (!status) status = convt3d__axis_output(&trial, a, &size, error);
        if (status) return status;
        if (wanted[a] < 1 || !convt3d__add(wanted[a], -size, &need) || need < 0 ||
            need >= convt3d__max(trial.stride[a], trial.dilation[a]))
            return convt3d__fail(error, CONVT3D_OUTPUT_SIZE_UNREACHABLE, "wanted", a, wanted[a], need, "");
        found[a] = need;
    }
    for (a = 0; a < 3; a++) trial.output_padding[a] = found[a];
    if ((status = convt3d_output_size(&trial, found, error)) != CONVT3D_OK) return status;
    desc->fixed_out_size = 0;
    for (a = 0; a < 3; a++) { desc->output_padding[a] = trial.output_padding[a];  desc->out_size[a] = 0; }
    return convt3d__ok(error);
}

/* A slab's strides, those that its whole was given, or dense ones of the whole. */
static void convt3d__strides_of_whole(int64_t stride[5], const int64_t dense[5])
{
    int32_t i;
    for (i = 0; i < 5; i++) if (stride[i] != 0) return;
    memcpy(stride, dense, 5 * sizeof stride[0]);
}

CONVT3D_API convt3d_status convt3d_slab(const convt3d_desc *desc, int32_t axis, int64_t begin, int64_t end,
                                        convt3d_desc *sub, int64_t *in_begin, int64_t *in_end, convt3d_error *error)
{
    convt3d__plan p;
    const convt3d__axis *x;
    convt3d_status status;
    int64_t first, last;
    int32_t a;
    if (!sub) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "sub", -1, 0, 0, "");
    if (!in_begin) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "in_begin", -1, 0, 0, "");
    if (!in_end) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "in_end", -1, 0, 0, "");
    if ((status = convt3d__resolve(&p, desc, error)) != CONVT3D_OK) return status;
    if (axis < 0 || axis > 2) return convt3d__fail(error, CONVT3D_SLAB_AXIS, "axis", -1, axis, 2, "");
    a = convt3d__next_norm(&p, 0);
    if (a < p.op_count) return convt3d__fail(error, CONVT3D_SLAB_NORM, "ops", a, 0, 0, "");
    x = &p.axis[axis];
    if (end < 0 || end > x->out) return convt3d__fail(error, CONVT3D_SLAB_RANGE, "end", axis, end, x->out, "");
    if (begin < 0 || begin > end) return convt3d__fail(error, CONVT3D_SLAB_RANGE, "begin", axis, begin, end, "");
    first = convt3d__max(0, convt3d__ceil_div(begin + x->padding - (x->kernel - 1) * x->dilation, x->stride));
    last = convt3d__min(x->in - 1, convt3d__floor_div(end - 1 + x->padding, x->stride));
    if (begin == end || first > last) { first = 0;  last = -1; }
    *sub = *desc;
    sub->fixed_out_size = 1;
    for (a = 0; a < 3; a++) { sub->out_size[a] = p.axis[a].out;  sub->output_padding[a] = 0; }
    convt3d__strides_of_whole(sub->x_stride, p.desc.x_stride);
    convt3d__strides_of_whole(sub->y_stride, p.desc.y_stride);
    for (a = 0; a < p.op_count; a++) convt3d__strides_of_whole(sub->ops[a].stride, p.desc.ops[a].stride);
    sub->in_size[axis] = last - first + 1;
    sub->out_size[axis] = end - begin;
    sub->padding[axis] = x->padding + begin - first * x->stride;
    *in_begin = first;
    *in_end = last + 1;
    return convt3d__ok(error);
}

/* The two ends' padding that ONNX derives where auto_pad or output_shape ask for it. */
static convt3d_status convt3d__onnx_axis(const convt3d_desc *d, const convt3d_onnx *onnx, int32_t a, int64_t *low,
                                         int64_t *size, convt3d_error *e)
{
    int64_t full, total;
    convt3d_status status = convt3d__axis_output(d, a, &full, e);       /* with padding 0 */
    if (status) return status;
    *low = onnx->pads[a];
    if (onnx->has_output_shape) *size = onnx->output_shape[a];
    else if (onnx->auto_pad == CONVT3D_ONNX_SAME_UPPER || onnx->auto_pad == CONVT3D_ONNX_SAME_LOWER) {
        if (!convt3d__mul(d->in_size[a], d->stride[a], size))
            return convt3d__fail(e, CONVT3D_GEOMETRY_OVERFLOW, "stride", a, d->stride[a], 0, "");
    } else {
        if (onnx->pads[a] < INT64_MIN / 4 || onnx->pads[a] > INT64_MAX / 4 || !convt3d__add(full, -onnx->pads[a], &full) ||
            onnx->pads[3 + a] < INT64_MIN / 4 || onnx->pads[3 + a] > INT64_MAX / 4 ||
            !convt3d__add(full, -onnx->pads[3 + a], size))
            return convt3d__fail(e, CONVT3D_GEOMETRY_OVERFLOW, "pads", a, onnx->pads[a], 0, "");
        return CONVT3D_OK;
    }
    total = convt3d__max(0, full - *size);
    *low = onnx->auto_pad == CONVT3D_ONNX_SAME_UPPER ? total / 2 : total - total / 2;
    return CONVT3D_OK;
}

CONVT3D_API convt3d_status convt3d_from_onnx(convt3d_desc *desc, const convt3d_onnx *onnx, convt3d_error *error)
{
    convt3d_desc d;
    int64_t unused[3];
    int32_t a;
    convt3d_status status;
    if (!desc) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "desc", -1, 0, 0, "");
    if (!onnx) return convt3d__fail(error, CONVT3D_NULL_ARGUMENT, "onnx", -1, 0, 0, "");
    if (onnx->auto_pad < 0 || onnx->auto_pad > CONVT3D_ONNX_VALID)
        return convt3d__fail(error, CONVT3D_ONNX_AUTO_PAD_UNKNOWN, "auto_pad", -1, onnx->auto_pad, CONVT3D_ONNX_VALID, "");
    if (onnx->has_output_shape < 0 || onnx->has_output_shape > 1)
        return convt3d__fail(error, CONVT3D_FLAG_INVALID, "has_output_shape", -1, onnx->has_output_shape, 1, "");
    for (a = 0; a < 6; a++)
        if (onnx->auto_pad != CONVT3D_ONNX_NOTSET && onnx->pads[a] != 0)
            return convt3d__fail(error, CONVT3D_ONNX_PADS_WITH_AUTO_PAD, "pads", a, onnx->pads[a], 0, "");
    d = *desc;
    d.fixed_out_size = 0;
    for (a = 0; a < 3; a++) { d.padding[a] = 0;  d.out_size[a] = 0; }
    if ((status = convt3d__check_enums(&d, error)) != CONVT3D_OK) return status;
    for (a = 0; a < 3; a++) {
        if (onnx->has_output_shape && onnx->output_shape[a] < 1)
            return convt3d__fail(error, CONVT3D_ONNX_OUTPUT_SHAPE, "output_shape", a, onnx->output_shape[a], 1, "");
        if ((status = convt3d__check_axis(&d, a, error)) != CONVT3D_OK) return status;
        status = convt3d__onnx_axis(&d, onnx, a, &d.padding[a], &d.out_size[a], error);
        if (status != CONVT3D_OK) return status;
        if (d.out_size[a] < 1)
            return convt3d__fail(error, CONVT3D_OUTPUT_EMPTY, "pads", a, d.out_size[a], onnx->pads[a], "");
    }
    d.fixed_out_size = 1;
    for (a = 0; a < 3; a++) d.output_padding[a] = 0;
    if ((status = convt3d_output_size(&d, unused, error)) != CONVT3D_OK) return status;
    *desc = d;      /* stride, dilation: a 0 is now the 1 it stood for */
    return convt3d__ok(error);
}

CONVT3D_API const char *convt3d_status_string(convt3d_status status)
{
    static const char *const names[] = {
#define CONVT3D__X(id, message) #id,
        CONVT3D_STATUSES(CONVT3D__X)
#undef CONVT3D__X
    };
    return (int)status >= 0 && (int)status < (int)CONVT3D_STATUS_COUNT ? names[status] : "UNKNOWN_STATUS";
}

CONVT3D_API const char *convt3d_version(void) { return CONVT3D_VERSION; }

CONVT3D_API const char *convt3d_op_name(int32_t kind)
{
    static const char *const names[] = {
#define CONVT3D__X(id, name, uses) name,
        CONVT3D_OPS(CONVT3D__X)
#undef CONVT3D__X
    };
    return kind >= 0 && kind < (int32_t)CONVT3D_OP_COUNT ? names[kind] : NULL;
}

CONVT3D_API int32_t convt3d_op_uses(int32_t kind) { return convt3d__op_uses(kind); }

CONVT3D_API const char *convt3d_kernel_name(int32_t device, int32_t pass, int32_t index)
{
    const convt3d__backend *backend;
    int32_t i;
    for (i = 0; (backend = convt3d__backend_at(i)) != NULL; i++)
        if (backend->device == device && backend->pass == pass && index-- == 0) return backend->name;
    return NULL;
}

#ifdef __cplusplus
}
#endif
#endif /* CONVT3D_IMPLEMENTATION */
