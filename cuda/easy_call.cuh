// convt3d() on a CUDA device, for any mix of memory. Device and managed pointers of the current device are used in
// place; what lies elsewhere (host, pinned host, another card) is staged over, and y back. Where staging does not fit
// the card's free memory the problem is cut in halves, along the batch first and then along the longest output axis, by
// convt3d_slab, until the pieces fit: a volume larger than the card is still computed. The cut is decided, and all
// memory found, before the first byte is copied.
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

// One easy call: what it was asked, what must be staged, and the device memory it found.
struct EasyCall {
    const convt3d__host_calls *calls;
    convt3d_io io;                          // w, w_packed and bias already where the device reads them
    bool stage_x, stage_y;
    int64_t element, budget;                // bytes that one piece may take
    int64_t x_bytes, y_bytes, workspace_bytes;      // the largest piece's
    char *x, *y, *workspace;                // on the device
    convt3d_error *error;
};

// The piece as the device sees it: staged tensors are dense.
static convt3d_status plan_piece(const EasyCall &call, convt3d_desc desc, const void *x, const void *y, convt3d__plan *p)
{
    convt3d_plan opaque;
    uintptr_t all = 256;
    if (call.stage_x) memset(desc.x_stride, 0, sizeof desc.x_stride);
    else all |= (uintptr_t)x;
    if (call.stage_y) memset(desc.y_stride, 0, sizeof desc.y_stride);
    else all |= (uintptr_t)y;
    all |= (uintptr_t)call.io.w | (uintptr_t)call.io.w_packed;
    desc.alignment = convt3d__max((int64_t)(all & (~all + 1)), call.element);
    convt3d_status status = call.calls->plan_init(&opaque, &desc, CONVT3D_FORWARD, call.error);
    if (status == CONVT3D_OK) memcpy(p, &opaque, sizeof *p);
    return status;
}

static int64_t staged_bytes(const EasyCall &call, const convt3d__plan &p)
{
    int64_t round = 256;
    return (call.stage_x ? p.x_count * call.element + round : 0) +
           (call.stage_y ? p.y_count * call.element + round : 0) + p.workspace + round;
}

static convt3d_status measure(EasyCall &call, const convt3d_desc &desc, const convt3d__plan &p, char *x, char *y)
{
    (void)desc;  (void)x;  (void)y;
    if (call.stage_x) call.x_bytes = convt3d__max(call.x_bytes, p.x_count * call.element);
    if (call.stage_y) call.y_bytes = convt3d__max(call.y_bytes, p.y_count * call.element);
    call.workspace_bytes = convt3d__max(call.workspace_bytes, p.workspace);
    return CONVT3D_OK;
}

// desc has the strides of the caller's tensors, p those of the staged ones.
static convt3d_status compute(EasyCall &call, const convt3d_desc &desc, const convt3d__plan &p, char *x, char *y)
{
    convt3d__plan outside = p;
    convt3d_plan opaque = {};
    convt3d_io io = call.io;
    cudaStream_t stream = (cudaStream_t)io.stream;
    cudaError_t cause = cudaSuccess;
    memcpy(outside.desc.x_stride, desc.x_stride, sizeof desc.x_stride);
    memcpy(outside.desc.y_stride, desc.y_stride, sizeof desc.y_stride);
    io.x = call.stage_x ? call.x : x;
    io.y = call.stage_y ? call.y : y;
    io.workspace = call.workspace;
    io.workspace_bytes = call.workspace_bytes;
    if (call.stage_x) cause = copy_view(x_view(p, call.x), x_view(outside, x), call.element, stream);
    if (cause != cudaSuccess) return convt3d__cuda_fail(call.error, cause, 0);
    memcpy(&opaque, &p, sizeof p);
    convt3d_status status = call.calls->run(&opaque, &io, call.error);
    if (status != CONVT3D_OK) return status;
    if (call.stage_y) cause = copy_view(y_view(outside, y), y_view(p, call.y), call.element, stream);
    return cause == cudaSuccess ? CONVT3D_OK : convt3d__cuda_fail(call.error, cause, 0);
}

typedef convt3d_status (*Visit)(EasyCall &call, const convt3d_desc &desc, const convt3d__plan &p, char *x, char *y);

// Visits the pieces of a problem that fit the budget, in order. desc has explicit strides and a fixed output size.
static convt3d_status for_pieces(EasyCall &call, const convt3d_desc &desc, char *x, char *y, Visit visit)
{
    convt3d__plan p;
    convt3d_status status = plan_piece(call, desc, x, y, &p);
    if (status != CONVT3D_OK) return status;
    int64_t need = staged_bytes(call, p);
    if (need <= call.budget) return visit(call, desc, p, x, y);
    int axis = 0;
    for (int a = 1; a < 3; a++) if (desc.out_size[a] > desc.out_size[axis]) axis = a;
    if (desc.batch <= 1 && desc.out_size[axis] <= 1)
        return convt3d__fail(call.error, CONVT3D_CUDA_OUT_OF_MEMORY, "device", -1, 0, need, "");
    for (int half = 0; half < 2; half++) {
        convt3d_desc part = desc;
        int64_t whole = desc.batch > 1 ? desc.batch : desc.out_size[axis];
        int64_t begin = half ? whole / 2 : 0, end = half ? whole : whole / 2, in_begin = begin, in_end;
        int64_t x_step = desc.x_stride[0], y_step = desc.y_stride[0];
        if (desc.batch > 1) part.batch = end - begin;
        else {
            status = call.calls->slab(&desc, axis, begin, end, &part, &in_begin, &in_end, call.error);
            if (status != CONVT3D_OK) return status;
            x_step = desc.x_stride[2 + axis];
            y_step = desc.y_stride[2 + axis];
        }
        status = for_pieces(call, part, x ? x + in_begin * x_step * call.element : x,
                            y + begin * y_step * call.element, visit);
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
}

// Finds memory for the largest piece; cuts finer as long as the card has less than it said.
static convt3d_status find_memory(EasyCall &call, const convt3d_desc &desc, char *x, char *y)
{
    size_t available = 0, total = 0;
    cudaError_t cause = cudaMemGetInfo(&available, &total);
    if (cause != cudaSuccess) return convt3d__cuda_fail(call.error, cause, 0);
    for (call.budget = (int64_t)(available - available / 16); ; call.budget /= 2) {
        call.x_bytes = call.y_bytes = call.workspace_bytes = 0;
        convt3d_status status = for_pieces(call, desc, x, y, measure);
        if (status != CONVT3D_OK) return status;
        cause = allocate(&call.x, call.x_bytes);
        if (cause == cudaSuccess) cause = allocate(&call.y, call.y_bytes);
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

// Copies a small dense tensor to the device unless it is there; *owned is what must be freed.
static cudaError_t bring(const void **pointer, int64_t bytes, int device, cudaStream_t stream, char **owned)
{
    bool there;
    cudaError_t cause = in_place(*pointer, device, &there);
    if (cause != cudaSuccess || there) return cause;
    cause = allocate(owned, bytes);
    if (cause == cudaSuccess) cause = cudaMemcpyAsync(*owned, *pointer, (size_t)bytes, cudaMemcpyDefault, stream);
    *pointer = *owned;
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

static convt3d_status stage_and_run(EasyCall &call, const convt3d__plan &p, const convt3d_io *io)
{
    cudaStream_t stream = (cudaStream_t)io->stream;
    convt3d_desc desc = explicit_desc(p);
    char *x = (char *)const_cast<void *>(io->x), *y = (char *)io->y, *w = NULL, *packed = NULL, *bias = NULL;
    bool x_there = false, y_there = false, packed_there = false;
    convt3d_status status = CONVT3D_OK;
    cudaError_t cause = in_place(io->x, p.cuda_device, &x_there);
    if (cause == cudaSuccess) cause = in_place(io->y, p.cuda_device, &y_there);
    if (cause == cudaSuccess) cause = in_place(io->w_packed, p.cuda_device, &packed_there);
    if (cause == cudaSuccess && !packed_there && io->pack_tag != p.pack_tag)    // its size is that of p's pack
        return convt3d__fail(call.error, CONVT3D_PACK_MISMATCH, "pack_tag", -1, (int64_t)io->pack_tag,
                             (int64_t)p.pack_tag, "");
    if (cause == cudaSuccess)
        cause = bring(&call.io.w, p.w_count * call.element, p.cuda_device, stream, &w);
    if (cause == cudaSuccess) cause = bring(&call.io.w_packed, p.packed, p.cuda_device, stream, &packed);
    if (cause == cudaSuccess)
        cause = bring(&call.io.bias, p.desc.out_channels * call.element, p.cuda_device, stream, &bias);
    if (cause != cudaSuccess) status = convt3d__cuda_fail(call.error, cause, p.w_count * call.element);
    if (status == CONVT3D_OK) {
        call.stage_x = !x_there;
        call.stage_y = !y_there;
        status = find_memory(call, desc, x, y);
    }
    if (status == CONVT3D_OK) status = for_pieces(call, desc, x, y, compute);
    cause = cudaStreamSynchronize(stream);
    if (status == CONVT3D_OK && cause != cudaSuccess) status = convt3d__cuda_fail(call.error, cause, 0);
    release(call);
    cudaFree(w);
    cudaFree(packed);
    cudaFree(bias);
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
    call.error = error;
    status = convt3d_cuda::stage_and_run(call, p, io);
    return status == CONVT3D_OK ? convt3d__ok(error) : status;
}
