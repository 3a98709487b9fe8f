// convt3d() on a CUDA device, for any mix of memory. Device and managed pointers of the current device are used in
// place; what lies elsewhere (host, pinned host, another card) is staged over, and y back. Where staging does not fit
// the card's free memory the problem is cut in halves, along the batch first and then along the longest output axis, by
// convt3d_slab, until the pieces fit: a volume larger than the card is still computed. A list that normalises is cut
// along the batch alone, one that normalises over the batch not at all. The cut is decided, and all memory found, before
// the first byte is copied.
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

// Where a piece's large tensors begin, in the caller's memory, and which sample of the whole is its first.
struct Place {
    char *x, *y, *residual[CONVT3D_MAX_OPS];
    int64_t sample;
};

// A small dense tensor of the call: where the caller has it, its copy on the device if one is needed.
struct Small {
    void *user;
    char *copy;
    int64_t bytes;
    bool written;
};

// One easy call: what it was asked, what must be staged, and the device memory it found.
struct EasyCall {
    const convt3d__host_calls *calls;
    convt3d_io io;                          // every small tensor already where the device reads it
    Small small[3 + 6 * CONVT3D_MAX_OPS];
    int smalls;
    bool stage_x, stage_y, stage_residual[CONVT3D_MAX_OPS];
    int64_t element, wide, budget;          // bytes: of an element, of the accumulator's type, that one piece may take
    int64_t x_bytes, y_bytes, workspace_bytes;      // the largest piece's
    char *x, *y, *workspace, *residual[CONVT3D_MAX_OPS];        // on the device
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
    return cause == cudaSuccess ? CONVT3D_OK : convt3d__cuda_fail(call.error, cause, 0);
}

typedef convt3d_status (*Visit)(EasyCall &call, const convt3d_desc &desc, const convt3d__plan &p, const Place &at);

// The axis along which the problem is cut in halves: 0 the batch, 2 ... 4 a longest output axis, -1 none.
static int cut_axis(const convt3d_desc &desc, const convt3d__plan &p)
{
    int axis = 0;
    for (int i = 0; i < p.op_count; i++) if (desc.ops[i].kind == CONVT3D_OP_BATCH_NORM) return -1;
    if (desc.batch > 1) return 0;
    if (convt3d__next_norm(&p, 0) < p.op_count) return -1;
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
        for (int i = 0; i < p.op_count; i++)
            if (at.residual[i]) there.residual[i] += begin * desc.ops[i].stride[axis] * call.element;
        status = for_pieces(call, part, there, visit);
        if (status != CONVT3D_OK) return status;
    }
    return CONVT3D_OK;
}

static cudaError_t allocate(char **pointer, int64_t bytes)
{
    *pointer = NULL;
    return bytes > 0 ? cudaMalloc((void **)pointer, (size_t)bytes) : cudaSuccess;
}

static void release(EasyCall &call)
{
    cudaFree(call.x);
    cudaFree(call.y);
    cudaFree(call.workspace);
    call.x = call.y = call.workspace = NULL;
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
        for (int i = 0; i < CONVT3D_MAX_OPS; i++)
            if (cause == cudaSuccess && call.stage_residual[i]) cause = allocate(&call.residual[i], call.y_bytes);
        if (cause == cudaSuccess) cause = allocate(&call.workspace, call.workspace_bytes);
        if (cause == cudaSuccess) return CONVT3D_OK;
        release(call);
        if (cause != cudaErrorMemoryAllocation) return convt3d__cuda_fail(call.error, cause, 0);
        cudaGetLastError();
    }
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

// Copies a small dense tensor to the device unless it is there; written: what is in it goes back in the end.
static cudaError_t bring(EasyCall &call, const void **pointer, int64_t bytes, int device, bool written)
{
    bool there;
    cudaError_t cause = in_place(*pointer, device, &there);
    if (cause != cudaSuccess || there) return cause;
    Small &small = call.small[call.smalls++];
    small = {const_cast<void *>(*pointer), NULL, bytes, written};
    cause = allocate(&small.copy, bytes);
    if (cause == cudaSuccess)
        cause = cudaMemcpyAsync(small.copy, *pointer, (size_t)bytes, cudaMemcpyDefault, (cudaStream_t)call.io.stream);
    *pointer = small.copy;
    return cause;
}

// Everything that is small: weights, bias, the vectors of the list.
static cudaError_t bring_all(EasyCall &call, const convt3d__plan &p)
{
    int device = p.cuda_device;
    cudaError_t cause = bring(call, &call.io.w, p.w_count * call.element, device, false);
    if (cause == cudaSuccess) cause = bring(call, &call.io.w_packed, p.packed, device, false);
    if (cause == cudaSuccess) cause = bring(call, &call.io.bias, p.desc.out_channels * call.element, device, false);
    for (int i = 0; i < p.op_count; i++) {
        convt3d_op_io &t = call.io.ops[i];
        int64_t channels = p.desc.out_channels * call.wide, sets = convt3d__norm_sets(&p, i) * call.wide;
        const void *vector[6] = {t.scale, t.shift, t.mean, t.rstd, t.running_mean, t.running_var};
        for (int k = 0; k < 6 && cause == cudaSuccess; k++)
            cause = bring(call, &vector[k], k == 2 || k == 3 ? sets : channels, device, k >= 2);
        t.scale = vector[0];
        t.shift = vector[1];
        t.mean = const_cast<void *>(vector[2]);
        t.rstd = const_cast<void *>(vector[3]);
        t.running_mean = const_cast<void *>(vector[4]);
        t.running_var = const_cast<void *>(vector[5]);
    }
    return cause;
}

static cudaError_t send_back(const EasyCall &call)
{
    cudaError_t cause = cudaSuccess;
    for (int i = 0; i < call.smalls && cause == cudaSuccess; i++)
        if (call.small[i].written)
            cause = cudaMemcpyAsync(call.small[i].user, call.small[i].copy, (size_t)call.small[i].bytes,
                                    cudaMemcpyDefault, (cudaStream_t)call.io.stream);
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
static convt3d_status validate(const convt3d_desc *desc, const convt3d_io *io, const convt3d__host_calls *calls,
                               convt3d__plan *p, convt3d_error *error)
{
    convt3d_plan opaque;
    convt3d_desc loose = *desc;
    convt3d__plan checked;
    convt3d_io call = *io;
    if (loose.dtype >= 0 && loose.dtype <= CONVT3D_BF16) loose.alignment = convt3d__element_size(loose.dtype);
    convt3d_status status = calls->plan_init(&opaque, &loose, CONVT3D_FORWARD, error);
    if (status != CONVT3D_OK) return status;
    memcpy(p, &opaque, sizeof *p);
    checked = *p;
    checked.workspace = 0;
    checked.pack_tag = io->pack_tag;        /* compared again with the piece's own plan */
    call.workspace = NULL;
    call.workspace_bytes = 0;
    return p->y_count == 0 ? CONVT3D_OK : calls->check_io(&checked, &call, error);
}

// What of the large tensors must be staged; *packed_there: the pack need not be brought.
static cudaError_t look_at_pointers(EasyCall &call, const convt3d__plan &p, const convt3d_io *io, bool *packed_there)
{
    bool there = false;
    cudaError_t cause = in_place(io->x, p.cuda_device, &there);
    call.stage_x = !there;
    if (cause == cudaSuccess) cause = in_place(io->y, p.cuda_device, &there);
    call.stage_y = !there;
    for (int i = 0; i < p.op_count && cause == cudaSuccess; i++) {
        cause = in_place(io->ops[i].residual, p.cuda_device, &there);
        call.stage_residual[i] = !there;
    }
    return cause == cudaSuccess ? in_place(io->w_packed, p.cuda_device, packed_there) : cause;
}

static convt3d_status stage_and_run(EasyCall &call, const convt3d__plan &p, const convt3d_io *io)
{
    convt3d_desc desc = explicit_desc(p);
    Place at = {(char *)const_cast<void *>(io->x), (char *)io->y, {}, 0};
    bool packed_there = false;
    convt3d_status status = CONVT3D_OK;
    for (int i = 0; i < CONVT3D_MAX_OPS; i++) at.residual[i] = (char *)const_cast<void *>(io->ops[i].residual);
    cudaError_t cause = look_at_pointers(call, p, io, &packed_there);
    if (cause == cudaSuccess && !packed_there && io->pack_tag != p.pack_tag)    // its size is that of p's pack
        return convt3d__fail(call.error, CONVT3D_PACK_MISMATCH, "pack_tag", -1, (int64_t)io->pack_tag,
                             (int64_t)p.pack_tag, "");
    if (cause == cudaSuccess) cause = bring_all(call, p);
    if (cause != cudaSuccess) status = convt3d__cuda_fail(call.error, cause, p.w_count * call.element);
    if (status == CONVT3D_OK) status = find_memory(call, desc, at);
    if (status == CONVT3D_OK) status = for_pieces(call, desc, at, compute);
    if (status == CONVT3D_OK && (cause = send_back(call)) != cudaSuccess)
        status = convt3d__cuda_fail(call.error, cause, 0);
    cause = cudaStreamSynchronize((cudaStream_t)io->stream);
    if (status == CONVT3D_OK && cause != cudaSuccess) status = convt3d__cuda_fail(call.error, cause, 0);
    release(call);
    for (int i = 0; i < call.smalls; i++) cudaFree(call.small[i].copy);
    return status;
}

}

extern "C" convt3d_status convt3d__cuda_call(const convt3d_desc *desc, const convt3d_io *io,
                                             const convt3d__host_calls *calls, convt3d_error *error)
{
    convt3d__plan p;
    convt3d_status status = convt3d_cuda::validate(desc, io, calls, &p, error);
    if (status != CONVT3D_OK) return status;
    if ((status = convt3d__check_device(&p, error)) != CONVT3D_OK) return status;
    if ((status = convt3d_cuda::check_stream((cudaStream_t)io->stream, error)) != CONVT3D_OK) return status;
    if (p.y_count == 0) return convt3d__ok(error);
    convt3d_cuda::EasyCall call = {};
    call.calls = calls;
    call.io = *io;
    call.element = convt3d__element_size(p.desc.dtype);
    call.wide = convt3d__element_size(convt3d__wide(p.desc.dtype));
    call.error = error;
    status = convt3d_cuda::stage_and_run(call, p, io);
    return status == CONVT3D_OK ? convt3d__ok(error) : status;
}
