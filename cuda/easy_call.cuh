// convt3d() and convt3d_backward() on a CUDA device, for any mix of memory. Device and managed pointers of the current
// device are used in place; what lies elsewhere (host, pinned host, another card) is staged over, and results back.
// Where staging does not fit the card's free memory the problem is cut in halves, along the batch first and then along
// the longest output axis, by convt3d_slab, until the pieces fit: a volume larger than the card is still computed. A
// list that normalises is cut along the batch alone, as is one that keeps what its backward pass needs; one that
// normalises over the batch is not cut at all, nor is a backward pass, whose sums have one rounding. The cut is
// decided, and all memory found, before the first byte is copied.
#pragma once

namespace convt3d_cuda {

// One tensor of the call: where it lies and how its elements are spaced.
struct View {
    char *data;
    int64_t size[5], stride[5];     // n, c, d, h, w; elements
};

static View x_view(const convt3d__plan &p, const void *data)
{
    View v = {(char *)const_cast<void *>(data), {p.desc.batch, p.desc.in_channels, 0, 0, 0}, {}};
    for (int a = 0; a < 3; a++) v.size[2 + a] = p.axis[a].in;
    memcpy(v.stride, p.desc.x_stride, sizeof v.stride);
    return v;
}

static View y_view(const convt3d__plan &p, void *data)
{
    View v = {(char *)data, {p.desc.batch, p.desc.out_channels, 0, 0, 0}, {}};
    for (int a = 0; a < 3; a++) v.size[2 + a] = p.axis[a].out;
    memcpy(v.stride, p.desc.y_stride, sizeof v.stride);
    return v;
}

// A copy between two views of one size as nested loops, innermost first: the first is contiguous on both sides.
struct CopyLoops {
    int64_t count[6], to_step[6], from_step[6];     // bytes; count[0] bytes at step 1
    int loops;
};

static CopyLoops copy_loops(const View &to, const View &from, int64_t element)
{
    CopyLoops c = {};
    bool used[5] = {};
    c.count[0] = element;
    c.to_step[0] = c.from_step[0] = 1;
    c.loops = 1;
    for (int round = 0; round < 5; round++) {
        int next = -1;              // the smallest stride of `to` that is left
        for (int i = 0; i < 5; i++)
            if (!used[i] && (next < 0 || to.stride[i] < to.stride[next])) next = i;
        used[next] = true;
        int last = c.loops - 1;
        int64_t to_step = to.stride[next] * element, from_step = from.stride[next] * element;
        if (to.size[next] == 1) continue;
        if (to_step == c.count[last] * c.to_step[last] && from_step == c.count[last] * c.from_step[last]) {
            c.count[last] *= to.size[next];
            continue;
        }
        c.count[c.loops] = to.size[next];
        c.to_step[c.loops] = to_step;
        c.from_step[c.loops++] = from_step;
    }
    return c;
}

// Copies loop `level` and all inside it; the two innermost as one pitched copy where the pitches allow it.
static cudaError_t copy_level(const CopyLoops &c, int level, char *to, const char *from, cudaStream_t stream)
{
    const int64_t most_pitch = INT32_MAX;
    if (level == 0) return cudaMemcpyAsync(to, from, (size_t)c.count[0], cudaMemcpyDefault, stream);
    if (level == 1 && c.to_step[1] >= c.count[0] && c.from_step[1] >= c.count[0] && c.to_step[1] <= most_pitch &&
        c.from_step[1] <= most_pitch)
        return cudaMemcpy2DAsync(to, (size_t)c.to_step[1], from, (size_t)c.from_step[1], (size_t)c.count[0],
                                 (size_t)c.count[1], cudaMemcpyDefault, stream);
    for (int64_t i = 0; i < c.count[level]; i++) {
        cudaError_t cause = copy_level(c, level - 1, to + i * c.to_step[level], from + i * c.from_step[level], stream);
        if (cause != cudaSuccess) return cause;
    }
    return cudaSuccess;
}

static cudaError_t copy_view(const View &to, const View &from, int64_t element, cudaStream_t stream)
{
    for (int i = 0; i < 5; i++) if (to.size[i] == 0) return cudaSuccess;
    CopyLoops c = copy_loops(to, from, element);
    return copy_level(c, c.loops - 1, to.data, from.data, stream);
}

static cudaError_t allocate(char **pointer, int64_t bytes)
{
    *pointer = NULL;
    return bytes > 0 ? cudaMalloc((void **)pointer, (size_t)bytes) : cudaSuccess;
}

// 1 if the current device can use the pointer in place, 0 if it must be staged.
static cudaError_t in_place(const void *pointer, int device, bool *answer)
{
    cudaPointerAttributes attributes;
    *answer = true;
    if (!pointer) return cudaSuccess;
    cudaError_t cause = cudaPointerGetAttributes(&attributes, pointer);
    *answer = cause == cudaSuccess && (attributes.type == cudaMemoryTypeManaged ||
                                       (attributes.type == cudaMemoryTypeDevice && attributes.device == device));
    return cause;
}

// Tensors that are staged as a whole: where the caller has them, and their copies on the device.
enum { STAGE_READ = 1, STAGE_WRITTEN = 2, STAGE_MOST = 8 + 8 * CONVT3D_MAX_OPS };

struct Staged {
    View user, copy;
    int64_t element;
    bool written;
};

struct Staging {
    Staged tensor[STAGE_MOST];
    int count, device;
    int64_t asked;                  // bytes of the last allocation
    cudaStream_t stream;
};

// Copies a tensor to the device unless it is there, and *pointer becomes the copy. use: STAGE_WRITTEN if what is in it
// goes back in the end. copy: how the copy is spaced.
static cudaError_t bring(Staging &s, const void **pointer, const View &user, const View &copy, int64_t element, int use)
{
    bool there;
    int64_t bytes = element;
    cudaError_t cause = in_place(*pointer, s.device, &there);
    if (cause != cudaSuccess || there) return cause;
    for (int i = 0; i < 5; i++) bytes *= user.size[i];
    if (bytes == 0) { *pointer = NULL;  return cudaSuccess; }
    Staged &staged = s.tensor[s.count++];
    staged = {user, copy, element, (use & STAGE_WRITTEN) != 0};
    staged.user.data = (char *)const_cast<void *>(*pointer);
    s.asked = bytes;
    cause = allocate(&staged.copy.data, bytes);
    if (cause == cudaSuccess && (use & STAGE_READ)) cause = copy_view(staged.copy, staged.user, element, s.stream);
    *pointer = staged.copy.data;
    return cause;
}

static cudaError_t bring_dense(Staging &s, const void **pointer, int64_t bytes, int use)
{
    View line = {NULL, {1, 1, 1, 1, bytes}, {bytes, bytes, bytes, bytes, 1}};
    return bring(s, pointer, line, line, 1, use);
}

static cudaError_t bring_dense(Staging &s, void **pointer, int64_t bytes, int use)
{
    const void *fixed = *pointer;
    cudaError_t cause = bring_dense(s, &fixed, bytes, use);
    *pointer = const_cast<void *>(fixed);
    return cause;
}

static cudaError_t send_back(const Staging &s)
{
    cudaError_t cause = cudaSuccess;
    for (int i = 0; i < s.count && cause == cudaSuccess; i++)
        if (s.tensor[i].written) cause = copy_view(s.tensor[i].user, s.tensor[i].copy, s.tensor[i].element, s.stream);
    return cause;
}

static void release(Staging &s)
{
    for (int i = 0; i < s.count; i++) cudaFree(s.tensor[i].copy.data);
    s.count = 0;
}

// Where a piece's large tensors begin, in the caller's memory, and which sample of the whole is its first.
struct Place {
    char *x, *y, *saved, *residual[CONVT3D_MAX_OPS];
    int64_t sample;
};

// One easy call: what it was asked, what must be staged, and the device memory it found.
struct EasyCall {
    const convt3d__host_calls *calls;
    convt3d_io io;                          // every small tensor already where the device reads it
    Staging small;
    bool stage_x, stage_y, stage_saved, stage_residual[CONVT3D_MAX_OPS];
    int64_t element, wide, budget;          // bytes: of an element, of the accumulator's type, that one piece may take
    int64_t x_bytes, y_bytes, workspace_bytes;      // the largest piece's
    char *x, *y, *saved, *workspace, *residual[CONVT3D_MAX_OPS];        // on the device
    convt3d_error *error;
};

static View residual_view(const convt3d__plan &p, int i, void *data)
{
    View v = y_view(p, data);
    memcpy(v.stride, p.desc.ops[i].stride, sizeof v.stride);
    return v;
}

// The piece as the device sees it: staged tensors are dense.
static convt3d_status plan_piece(const EasyCall &call, convt3d_desc desc, const Place &at, convt3d__plan *p)
{
    convt3d_plan opaque;
    uintptr_t all = 256;
    if (call.stage_x) memset(desc.x_stride, 0, sizeof desc.x_stride);
    else all |= (uintptr_t)at.x;
    if (call.stage_y) memset(desc.y_stride, 0, sizeof desc.y_stride);
    else all |= (uintptr_t)at.y;
    if (!call.stage_saved) all |= (uintptr_t)at.saved;
    for (int i = 0; i < CONVT3D_MAX_OPS; i++)
        if (call.stage_residual[i]) memset(desc.ops[i].stride, 0, sizeof desc.ops[i].stride);
    all |= (uintptr_t)call.io.w | (uintptr_t)call.io.w_packed;
    desc.alignment = convt3d__max((int64_t)(all & (~all + 1)), call.element);
    convt3d_status status = call.calls->plan_init(&opaque, &desc, CONVT3D_FORWARD, call.error);
    if (status == CONVT3D_OK) memcpy(p, &opaque, sizeof *p);
    return status;
}

static int64_t staged_bytes(const EasyCall &call, const convt3d__plan &p)
{
    int64_t round = 256, bytes = p.workspace + round;
    if (call.stage_x) bytes += p.x_count * call.element + round;
    if (call.stage_y) bytes += p.y_count * call.element + round;
    if (call.stage_saved) bytes += p.y_count * call.element + round;
    for (int i = 0; i < p.op_count; i++) if (call.stage_residual[i]) bytes += p.y_count * call.element + round;
    return bytes;
}

static convt3d_status measure(EasyCall &call, const convt3d_desc &desc, const convt3d__plan &p, const Place &at)
{
    (void)desc;  (void)at;
    if (call.stage_x) call.x_bytes = convt3d__max(call.x_bytes, p.x_count * call.element);
    call.y_bytes = convt3d__max(call.y_bytes, p.y_count * call.element);
    call.workspace_bytes = convt3d__max(call.workspace_bytes, p.workspace);
    return CONVT3D_OK;
}

// The call's pointers for one piece; residuals that are staged are copied over.
static cudaError_t place_list(EasyCall &call, const convt3d__plan &outside, const convt3d__plan &p, const Place &at,
                              convt3d_io *io)
{
    cudaError_t cause = cudaSuccess;
    for (int i = 0; i < p.op_count && cause == cudaSuccess; i++) {
        convt3d_op_io &t = io->ops[i];
        int64_t skip = at.sample * p.desc.ops[i].groups * call.wide;    // BATCH_NORM is never cut
        if (t.mean) t.mean = (char *)t.mean + skip;
        if (t.rstd) t.rstd = (char *)t.rstd + skip;
        if (!t.residual) continue;
        t.residual = call.stage_residual[i] ? call.residual[i] : at.residual[i];
        if (call.stage_residual[i])
            cause = copy_view(residual_view(p, i, call.residual[i]), residual_view(outside, i, at.residual[i]),
                              call.element, (cudaStream_t)io->stream);
    }
    return cause;
}

// desc has the strides of the caller's tensors, p those of the staged ones.
static convt3d_status compute(EasyCall &call, const convt3d_desc &desc, const convt3d__plan &p, const Place &at)
{
    convt3d__plan outside = p;
    convt3d_plan opaque = {};
    convt3d_io io = call.io;
    cudaStream_t stream = (cudaStream_t)io.stream;
    memcpy(outside.desc.x_stride, desc.x_stride, sizeof desc.x_stride);
    memcpy(outside.desc.y_stride, desc.y_stride, sizeof desc.y_stride);
    memcpy(outside.desc.ops, desc.ops, sizeof desc.ops);
    io.x = call.stage_x ? call.x : at.x;
    io.y = call.stage_y ? call.y : at.y;
    io.saved = call.stage_saved ? call.saved : at.saved;
    io.workspace = call.workspace;
    io.workspace_bytes = call.workspace_bytes;
    cudaError_t cause = place_list(call, outside, p, at, &io);
    if (cause == cudaSuccess && call.stage_x)
        cause = copy_view(x_view(p, call.x), x_view(outside, at.x), call.element, stream);
    if (cause != cudaSuccess) return convt3d__cuda_fail(call.error, cause, 0);
    memcpy(&opaque, &p, sizeof p);
    convt3d_status status = call.calls->run(&opaque, &io, call.error);
    if (status != CONVT3D_OK) return status;
    if (call.stage_y) cause = copy_view(y_view(outside, at.y), y_view(p, call.y), call.element, stream);
    if (call.stage_saved && cause == cudaSuccess)
        cause = cudaMemcpyAsync(at.saved, call.saved, (size_t)(p.y_count * call.element), cudaMemcpyDefault, stream);
    return cause == cudaSuccess ? CONVT3D_OK : convt3d__cuda_fail(call.error, cause, 0);
}

typedef convt3d_status (*Visit)(EasyCall &call, const convt3d_desc &desc, const convt3d__plan &p, const Place &at);

// The axis along which the problem is cut in halves: 0 the batch, 2 ... 4 a longest output axis, -1 none.
static int cut_axis(const convt3d_desc &desc, const convt3d__plan &p)
{
    int axis = 0;
    for (int i = 0; i < p.op_count; i++) if (desc.ops[i].kind == CONVT3D_OP_BATCH_NORM) return -1;
    if (desc.batch > 1) return 0;
    if (convt3d__next_norm(&p, 0) < p.op_count || p.saves == CONVT3D_SAVES_CONVOLUTION) return -1;
    for (int a = 1; a < 3; a++) if (desc.out_size[a] > desc.out_size[axis]) axis = a;
    return desc.out_size[axis] > 1 ? 2 + axis : -1;
}

// Visits the pieces of a problem that fit the budget, in order. desc has explicit strides and a fixed output size.
static convt3d_status for_pieces(EasyCall &call, const convt3d_desc &desc, const Place &at, Visit visit)
{
    convt3d__plan p;
    convt3d_status status = plan_piece(call, desc, at, &p);
    if (status != CONVT3D_OK) return status;
    int64_t need = staged_bytes(call, p);
    if (need <= call.budget) return visit(call, desc, p, at);
    int axis = cut_axis(desc, p);
    if (axis < 0) return convt3d__fail(call.error, CONVT3D_CUDA_OUT_OF_MEMORY, "device", -1, 0, need, "");
    int64_t whole = axis == 0 ? desc.batch : desc.out_size[axis - 2];
    for (int half = 0; half < 2; half++) {
        convt3d_desc part = desc;
        Place there = at;
        int64_t begin = half ? whole / 2 : 0, end = half ? whole : whole / 2, in_begin = begin, in_end;
        if (axis == 0) { part.batch = end - begin;  there.sample += begin; }
        else status = call.calls->slab(&desc, axis - 2, begin, end, &part, &in_begin, &in_end, call.error);
        if (status != CONVT3D_OK) return status;
        if (at.x) there.x += in_begin * desc.x_stride[axis] * call.element;
        there.y += begin * desc.y_stride[axis] * call.element;
        if (at.saved) there.saved += begin * (p.y_count / desc.batch) * call.element;       // cut along the batch alone
        for (int i = 0; i < p.op_count; i++)
            if (at.residual[i]) there.residual[i] += begin * desc.ops[i].stride[axis] * call.element;
        status = for_pieces(call, part, there, visit);
        if (status != CONVT3D_OK) return status;
    }
    return CONVT3D_OK;
}

static void release(EasyCall &call)
{
    cudaFree(call.x);
    cudaFree(call.y);
    cudaFree(call.saved);
    cudaFree(call.workspace);
    call.x = call.y = call.saved = call.workspace = NULL;
    for (int i = 0; i < CONVT3D_MAX_OPS; i++) { cudaFree(call.residual[i]);  call.residual[i] = NULL; }
}

// Finds memory for the largest piece; cuts finer as long as the card has less than it said.
static convt3d_status find_memory(EasyCall &call, const convt3d_desc &desc, const Place &at)
{
    size_t available = 0, total = 0;
    cudaError_t cause = cudaMemGetInfo(&available, &total);
    if (cause != cudaSuccess) return convt3d__cuda_fail(call.error, cause, 0);
    for (call.budget = (int64_t)(available - available / 16); ; call.budget /= 2) {
        call.x_bytes = call.y_bytes = call.workspace_bytes = 0;
        convt3d_status status = for_pieces(call, desc, at, measure);
        if (status != CONVT3D_OK) return status;
        cause = allocate(&call.x, call.x_bytes);
        if (cause == cudaSuccess && call.stage_y) cause = allocate(&call.y, call.y_bytes);
        if (cause == cudaSuccess && call.stage_saved) cause = allocate(&call.saved, call.y_bytes);
        for (int i = 0; i < CONVT3D_MAX_OPS; i++)
            if (cause == cudaSuccess && call.stage_residual[i]) cause = allocate(&call.residual[i], call.y_bytes);
        if (cause == cudaSuccess) cause = allocate(&call.workspace, call.workspace_bytes);
        if (cause == cudaSuccess) return CONVT3D_OK;
        release(call);
        if (cause != cudaErrorMemoryAllocation) return convt3d__cuda_fail(call.error, cause, 0);
        cudaGetLastError();
    }
}

// Everything that is small: weights, bias, the vectors of the list.
static cudaError_t bring_all(EasyCall &call, const convt3d__plan &p)
{
    Staging &s = call.small;
    cudaError_t cause = bring_dense(s, &call.io.w, p.w_count * call.element, STAGE_READ);
    if (cause == cudaSuccess) cause = bring_dense(s, &call.io.w_packed, p.packed, STAGE_READ);
    if (cause == cudaSuccess) cause = bring_dense(s, &call.io.bias, p.desc.out_channels * call.element, STAGE_READ);
    for (int i = 0; i < p.op_count; i++) {
        convt3d_op_io &t = call.io.ops[i];
        int64_t channels = p.desc.out_channels * call.wide, sets = convt3d__norm_sets(&p, i) * call.wide;
        void **written[4] = {&t.mean, &t.rstd, &t.running_mean, &t.running_var};
        if (cause == cudaSuccess) cause = bring_dense(s, &t.scale, channels, STAGE_READ);
        if (cause == cudaSuccess) cause = bring_dense(s, &t.shift, channels, STAGE_READ);
        for (int k = 0; k < 4 && cause == cudaSuccess; k++)
            cause = bring_dense(s, written[k], k < 2 ? sets : channels, STAGE_READ | STAGE_WRITTEN);
    }
    return cause;
}

static convt3d_status check_stream(cudaStream_t stream, convt3d_error *error)
{
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cudaError_t cause = cudaStreamIsCapturing(stream, &capture);
    if (cause != cudaSuccess) return convt3d__cuda_fail(error, cause, 0);
    if (capture == cudaStreamCaptureStatusNone) return CONVT3D_OK;
    return convt3d__fail(error, CONVT3D_CUDA_CAPTURING, "stream", -1, 0, 0, "");
}

// The whole problem with every size and stride written out, so that it can be cut.
static convt3d_desc explicit_desc(const convt3d__plan &p)
{
    convt3d_desc desc = p.desc;
    desc.fixed_out_size = 1;
    for (int a = 0; a < 3; a++) { desc.out_size[a] = p.axis[a].out;  desc.output_padding[a] = 0; }
    return desc;
}

// Validates the call as convt3d_run would, against the caller's own pointers, before anything is staged.
static convt3d_status validate(const convt3d_desc *desc, const convt3d_io *io, int32_t pass,
                               const convt3d__host_calls *calls, convt3d__plan *p, convt3d_error *error)
{
    convt3d_plan opaque;
    convt3d_desc loose = *desc;
    convt3d__plan checked;
    convt3d_io call = *io;
    if (loose.dtype >= 0 && loose.dtype <= CONVT3D_BF16) loose.alignment = convt3d__element_size(loose.dtype);
    convt3d_status status = calls->plan_init(&opaque, &loose, pass, error);
    if (status != CONVT3D_OK) return status;
    memcpy(p, &opaque, sizeof *p);
    checked = *p;
    checked.workspace = 0;
    checked.pack_tag = io->pack_tag;        /* compared again with the piece's own plan */
    call.workspace = NULL;
    call.workspace_bytes = 0;
    if (pass != CONVT3D_FORWARD) status = calls->check_backward_io(&checked, &call, error);
    else if (p->y_count > 0) status = calls->check_io(&checked, &call, error);
    return status;
}

// What of the large tensors must be staged; *packed_there: the pack need not be brought.
static cudaError_t look_at_pointers(EasyCall &call, const convt3d__plan &p, const convt3d_io *io, bool *packed_there)
{
    bool there = false;
    cudaError_t cause = in_place(io->x, p.cuda_device, &there);
    call.stage_x = !there;
    if (cause == cudaSuccess) cause = in_place(io->y, p.cuda_device, &there);
    call.stage_y = !there;
    if (cause == cudaSuccess) cause = in_place(io->saved, p.cuda_device, &there);
    call.stage_saved = !there;
    for (int i = 0; i < p.op_count && cause == cudaSuccess; i++) {
        cause = in_place(io->ops[i].residual, p.cuda_device, &there);
        call.stage_residual[i] = !there;
    }
    return cause == cudaSuccess ? in_place(io->w_packed, p.cuda_device, packed_there) : cause;
}

static convt3d_status stage_and_run(EasyCall &call, const convt3d__plan &p, const convt3d_io *io)
{
    convt3d_desc desc = explicit_desc(p);
    Place at = {(char *)const_cast<void *>(io->x), (char *)io->y, (char *)io->saved, {}, 0};
    bool packed_there = false;
    convt3d_status status = CONVT3D_OK;
    for (int i = 0; i < CONVT3D_MAX_OPS; i++) at.residual[i] = (char *)const_cast<void *>(io->ops[i].residual);
    cudaError_t cause = look_at_pointers(call, p, io, &packed_there);
    if (cause == cudaSuccess && !packed_there && io->pack_tag != p.pack_tag)    // its size is that of p's pack
        return convt3d__fail(call.error, CONVT3D_PACK_MISMATCH, "pack_tag", -1, (int64_t)io->pack_tag,
                             (int64_t)p.pack_tag, "");
    if (cause == cudaSuccess) cause = bring_all(call, p);
    if (cause != cudaSuccess) status = convt3d__cuda_fail(call.error, cause, call.small.asked);
    if (status == CONVT3D_OK) status = find_memory(call, desc, at);
    if (status == CONVT3D_OK) status = for_pieces(call, desc, at, compute);
    if (status == CONVT3D_OK && (cause = send_back(call.small)) != cudaSuccess)
        status = convt3d__cuda_fail(call.error, cause, 0);
    cause = cudaStreamSynchronize((cudaStream_t)io->stream);
    if (status == CONVT3D_OK && cause != cudaSuccess) status = convt3d__cuda_fail(call.error, cause, 0);
    release(call);
    release(call.small);
    return status;
}

/* ---- backward -------------------------------------------------------------------------------------------------- */

// One tensor of x's or y's shape whose strides the desc has.
struct Strided {
    const void **pointer;
    int64_t *stride;                // in the desc that is planned; dense where the tensor is staged
    bool is_x;
    int use;
};

enum { STRIDED_MOST = 4 + CONVT3D_MAX_OPS };

// Forgets what the pass does not read.
static void drop_unread(const convt3d__plan &p, convt3d_io &io)
{
    if (!io.dw) io.x = NULL;
    if (!io.dx) io.w = io.w_packed = NULL;
    if (p.saves != CONVT3D_SAVES_OUTPUT) io.y = NULL;
    if (p.saves != CONVT3D_SAVES_CONVOLUTION) io.saved = NULL;
}

// Those of the tensors that the pass reads or writes.
static int strided_of(const convt3d__plan &p, convt3d_desc &desc, convt3d_io &io, Strided (&list)[STRIDED_MOST])
{
    const bool adds = desc.accumulate & CONVT3D_BACKWARD_X;
    int n = 0;
    list[n++] = {&io.dy, desc.dy_stride, false, STAGE_READ};
    list[n++] = {(const void **)&io.dx, desc.dx_stride, true, adds ? STAGE_READ | STAGE_WRITTEN : STAGE_WRITTEN};
    list[n++] = {&io.x, desc.x_stride, true, STAGE_READ};
    list[n++] = {(const void **)&io.y, desc.y_stride, false, STAGE_READ};
    for (int i = 0; i < p.op_count; i++)
        if (p.desc.ops[i].kind == CONVT3D_OP_MULTIPLY || i < p.curved)
            list[n++] = {&io.ops[i].residual, desc.ops[i].stride, false, STAGE_READ};
    return n;
}

// The desc to plan with: dense strides for what will be staged, the alignment that all others have.
static cudaError_t back_desc(const convt3d__plan &p, const Strided *list, int count, const convt3d_io &io,
                             convt3d_desc &desc)
{
    const void *aligned[] = {io.x, io.w, io.w_packed, io.y, io.saved, io.dy, io.dx, io.dw};
    uintptr_t all = 256;
    bool there;
    for (int i = 0; i < count; i++) {
        cudaError_t cause = in_place(*list[i].pointer, p.cuda_device, &there);
        if (cause != cudaSuccess) return cause;
        if (!there) memset(list[i].stride, 0, 5 * sizeof *list[i].stride);
    }
    for (const void *pointer : aligned) {
        cudaError_t cause = in_place(pointer, p.cuda_device, &there);
        if (cause != cudaSuccess) return cause;
        if (there) all |= (uintptr_t)pointer;
    }
    desc.alignment = convt3d__max((int64_t)(all & (~all + 1)), convt3d__element_size(desc.dtype));
    return cudaSuccess;
}

// Gradients are read too where they are added to.
static cudaError_t bring_gradient(Staging &s, const convt3d__plan &p, int32_t bit, void **gradient, int64_t bytes)
{
    return bring_dense(s, gradient, bytes, p.desc.accumulate & bit ? STAGE_READ | STAGE_WRITTEN : STAGE_WRITTEN);
}

// The dense tensors of a backward pass.
static cudaError_t bring_back_dense(Staging &s, const convt3d__plan &p, convt3d_io &io)
{
    int64_t element = convt3d__element_size(p.desc.dtype), wide = convt3d__element_size(convt3d__wide(p.desc.dtype));
    cudaError_t cause = bring_dense(s, &io.w, p.w_count * element, STAGE_READ);
    if (cause == cudaSuccess) cause = bring_dense(s, &io.w_packed, p.packed, STAGE_READ);
    if (cause == cudaSuccess) cause = bring_dense(s, &io.saved, p.y_count * element, STAGE_READ);
    if (cause == cudaSuccess) cause = bring_gradient(s, p, CONVT3D_BACKWARD_W, &io.dw, p.w_count * element);
    if (cause == cudaSuccess)
        cause = bring_gradient(s, p, CONVT3D_BACKWARD_BIAS, &io.dbias, p.desc.out_channels * element);
    for (int i = 0; i < p.op_count && cause == cudaSuccess; i++) {
        convt3d_op_io &t = io.ops[i];
        int64_t channels = p.desc.out_channels * wide, sets = convt3d__norm_sets(&p, i) * wide;
        cause = bring_dense(s, &t.scale, channels, STAGE_READ);
        if (cause == cudaSuccess) cause = bring_dense(s, &t.shift, channels, STAGE_READ);
        if (cause == cudaSuccess) cause = bring_dense(s, &t.mean, sets, STAGE_READ);
        if (cause == cudaSuccess) cause = bring_dense(s, &t.rstd, sets, STAGE_READ);
        if (cause == cudaSuccess) cause = bring_gradient(s, p, CONVT3D_BACKWARD_OPS, &t.d_scale, channels);
        if (cause == cudaSuccess) cause = bring_gradient(s, p, CONVT3D_BACKWARD_OPS, &t.d_shift, channels);
        if (cause == cudaSuccess)
            cause = bring_gradient(s, p, CONVT3D_BACKWARD_OPS, &t.d_residual, p.y_count * element);
    }
    return cause;
}

// Stages what must be; desc has the strides of the caller's tensors, staged those of the copies, in the same order.
static cudaError_t bring_back(Staging &s, const convt3d__plan &p, const Strided *user, const Strided *staged, int count,
                              convt3d_io &io)
{
    int64_t element = convt3d__element_size(p.desc.dtype);
    cudaError_t cause = cudaSuccess;
    for (int i = 0; i < count && cause == cudaSuccess; i++) {
        View outside = user[i].is_x ? x_view(p, NULL) : y_view(p, NULL), copy = outside;
        memcpy(outside.stride, user[i].stride, sizeof outside.stride);
        memcpy(copy.stride, staged[i].stride, sizeof copy.stride);
        cause = bring(s, staged[i].pointer, outside, copy, element, user[i].use);
    }
    return cause == cudaSuccess ? bring_back_dense(s, p, io) : cause;
}

static convt3d_status stage_and_run_back(const convt3d__plan &p, const convt3d_io *io, int32_t pass,
                                         const convt3d__host_calls *calls, Staging &s, convt3d_error *error)
{
    Strided user[STRIDED_MOST], staged[STRIDED_MOST];
    convt3d_desc outside = p.desc, desc = p.desc;
    convt3d_io to = *io;
    convt3d_plan opaque;
    convt3d__plan plan;
    char *workspace = NULL;
    drop_unread(p, to);
    int count = strided_of(p, desc, to, staged);
    cudaError_t cause = back_desc(p, staged, count, to, desc);
    convt3d_status status = cause == cudaSuccess ? calls->plan_init(&opaque, &desc, pass, error) :
                                                   convt3d__cuda_fail(error, cause, 0);
    if (status != CONVT3D_OK) return status;
    memcpy(&plan, &opaque, sizeof plan);
    strided_of(p, outside, to, user);
    strided_of(p, plan.desc, to, staged);
    cause = bring_back(s, plan, user, staged, count, to);
    if (cause == cudaSuccess) cause = allocate(&workspace, s.asked = plan.workspace);
    if (cause != cudaSuccess) status = convt3d__cuda_fail(error, cause, s.asked);
    to.workspace = workspace;
    to.workspace_bytes = plan.workspace;
    if (status == CONVT3D_OK) status = calls->run(&opaque, &to, error);
    if (status == CONVT3D_OK && (cause = send_back(s)) != cudaSuccess) status = convt3d__cuda_fail(error, cause, 0);
    cause = cudaStreamSynchronize(s.stream);
    if (status == CONVT3D_OK && cause != cudaSuccess) status = convt3d__cuda_fail(error, cause, 0);
    cudaFree(workspace);
    release(s);
    return status;
}

}

extern "C" convt3d_status convt3d__cuda_call(const convt3d_desc *desc, const convt3d_io *io,
                                             const convt3d__host_calls *calls, convt3d_error *error)
{
    convt3d__plan p;
    convt3d_status status = convt3d_cuda::validate(desc, io, CONVT3D_FORWARD, calls, &p, error);
    if (status != CONVT3D_OK) return status;
    if ((status = convt3d__check_device(&p, error)) != CONVT3D_OK) return status;
    if ((status = convt3d_cuda::check_stream((cudaStream_t)io->stream, error)) != CONVT3D_OK) return status;
    if (p.y_count == 0) return convt3d__ok(error);
    convt3d_cuda::EasyCall call = {};
    call.calls = calls;
    call.io = *io;
    call.element = convt3d__element_size(p.desc.dtype);
    call.wide = convt3d__element_size(convt3d__wide(p.desc.dtype));
    call.small.device = p.cuda_device;
    call.small.stream = (cudaStream_t)io->stream;
    call.error = error;
    status = convt3d_cuda::stage_and_run(call, p, io);
    return status == CONVT3D_OK ? convt3d__ok(error) : status;
}

extern "C" convt3d_status convt3d__cuda_backward(const convt3d_desc *desc, const convt3d_io *io, int32_t pass,
                                                 const convt3d__host_calls *calls, convt3d_error *error)
{
    convt3d__plan p;
    convt3d_status status = convt3d_cuda::validate(desc, io, pass, calls, &p, error);
    if (status != CONVT3D_OK) return status;
    if ((status = convt3d__check_device(&p, error)) != CONVT3D_OK) return status;
    if ((status = convt3d_cuda::check_stream((cudaStream_t)io->stream, error)) != CONVT3D_OK) return status;
    convt3d_cuda::Staging staging = {};
    staging.device = p.cuda_device;
    staging.stream = (cudaStream_t)io->stream;
    status = convt3d_cuda::stage_and_run_back(p, io, pass, calls, staging, error);
    return status == CONVT3D_OK ? convt3d__ok(error) : status;
}
