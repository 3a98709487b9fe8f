"""The operators that PyTorch knows: their kernels, shapes without data, gradients and autocast.

    convt3d::conv_transpose3d(x, w, bias, CONVOLUTION) -> y
    convt3d::conv_transpose3d_backward(dy, x, w, CONVOLUTION, wanted) -> (dx, dw, dbias)
    convt3d::fused(x, w, bias, CONVOLUTION, LIST, backward) -> (y, saved, statistics)
    convt3d::fused_backward(dy, x, w, y, saved, statistics, CONVOLUTION, LIST, wanted) -> (dx, dw, dbias, d_tensors)

CONVOLUTION is stride, padding, output_padding, groups, dilation, tf32. The first two are each other's derivatives, so
that gradients of every order are made of them. LIST is what follows the convolution: ops, text like
"relu;group_norm:scale,shift", each entry with the names of its tensors; op_groups, one for each entry; op_numbers, a
and b of each; tensors, all of them in this order. All are functional: new running statistics come back in
`statistics`. Outputs that are not wanted have no elements.

Tensors go to the library as they lie in memory, by their strides; weights alone are made dense. Work is enqueued on
PyTorch's current stream with workspace from PyTorch's allocator, and plans are kept: a call seen before allocates by
PyTorch alone and can be captured in a CUDA graph.
"""
import functools
from typing import NamedTuple

import torch

from . import _library as c

DTYPES = {torch.float32: c.F32, torch.float64: c.F64, torch.float16: c.F16, torch.bfloat16: c.BF16}
FORMATS = {c.NCDHW: torch.contiguous_format, c.NDHWC: torch.channels_last_3d}
OP_TENSORS = {"residual": c.USES_RESIDUAL, "scale": c.USES_SCALE, "shift": c.USES_SCALE,
              "running_mean": c.USES_RUNNING, "running_var": c.USES_RUNNING}


# ---- the list that follows the convolution ---------------------------------------------------------------------------

class Entry(NamedTuple):
    name: str
    groups: int
    a: float
    b: float
    tensors: tuple                                      # the names of those that it was given

    def kind(self):
        return c.ENTRIES[self.name][0]

    def uses(self, bit):
        return bool(c.ENTRIES[self.name][1] & bit)

    def sets(self, batch, channels):
        """How many means it takes."""
        return batch * self.groups if self.name == "group_norm" else channels


@functools.lru_cache(maxsize=1024)
def parse(ops):
    """[(name, names of its tensors)]"""
    return [(name, tuple(filter(None, tensors.split(","))))
            for name, _, tensors in (text.partition(":") for text in filter(None, ops.split(";")))]


def text_of(entries):
    return ";".join([f"{entry.name}:{','.join(entry.tensors)}" for entry in entries])


def entries_of(ops, op_groups, op_numbers):
    return [Entry(name, groups, a, b, tensors)
            for (name, tensors), groups, a, b in zip(parse(ops), op_groups, op_numbers[::2], op_numbers[1::2])]


def by_entry(entries, tensors):
    """Yields each entry with {name: (index, tensor)} of its tensors."""
    at = 0
    for entry in entries:
        yield entry, {name: (index, tensors[index]) for index, name in enumerate(entry.tensors, at)}
        at += len(entry.tensors)


def statistics_of(entries, batch, channels):
    """Where in `statistics` each entry's mean, rstd and new running statistics lie, [{name: slice}], and how long it
    is; in elements."""
    places, end = [], 0
    for entry in entries:
        names = ["mean", "rstd"] if entry.uses(c.USES_STATISTICS) else []
        place = {}
        for name in names + [name for name in entry.tensors if name.startswith("running")]:
            size = channels if name.startswith("running") else entry.sets(batch, channels)
            place[name] = slice(end, end + size)
            end = end + size
        places.append(place)
    return places, end


@functools.lru_cache(maxsize=1024)
def saves(ops, op_numbers, backward):
    """What forward keeps for these gradients, a c.SAVES_...: the list alone decides, so a small problem is asked."""
    if not backward:
        return c.SAVES_NOTHING
    entries = entries_of(ops, [1] * len(op_numbers), op_numbers)
    one, none = (1, 1, 1), (0, 0, 0)
    return c.plan(c.Problem(
        c.FORWARD, None, 1, 1, 1, 1, (2, 2, 2), one, one, none, none, one, c.F32, c.NCDHW, 0, 1, 0, backward=backward,
        ops=tuple((entry.kind(), int(entry.uses(c.USES_GROUPS)), entry.a, entry.b, None) for entry in entries))).saves


# ---- shapes and memory -----------------------------------------------------------------------------------------------

def out_shape(x, w, stride, padding, output_padding, groups, dilation, tf32=False):
    size = [(x.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (w.shape[2 + i] - 1)
            + output_padding[i] + 1 for i in range(3)]
    return [x.shape[0], w.shape[1] * groups, *size]


def is_channels_last(t):
    """Whether the strides are in the order of channels_last_3d, as for PyTorch's own choice: crops count too."""
    least = 0
    for axis in (1, 4, 3, 2, 0):
        if t.shape[axis] == 0 or t.stride(axis) < max(least, 1) or (axis == 0 and least == t.stride(1)):
            return False
        least = t.stride(axis) * t.shape[axis]
    return True


def layout_of(x, w):
    """Of what comes out: channels last if either is, as in PyTorch."""
    return c.NDHWC if is_channels_last(x) or is_channels_last(w) else c.NCDHW


def empty(shape, like, layout=c.NCDHW, dtype=None):
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=FORMATS[layout])


def nothing(like):
    return torch.empty(0, dtype=like.dtype, device=like.device)


def wide(t):
    """The type of scales, shifts and statistics."""
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def strides_of(t, layout):
    return None if t.is_contiguous(memory_format=FORMATS[layout]) else t.stride()


def readable(t, layout):
    """Strides that are all zero say "dense" to the library: one value expanded to five axes is written out."""
    return t if any(t.stride()) else t.contiguous(memory_format=FORMATS[layout])


def alignment_of(*tensors):
    bits = 16
    for t in tensors:
        bits |= t.data_ptr()
    return bits & -bits


def check(x, w, bias, convolution, entries=(), tensors=(), dy=None):
    """What the library cannot see in pointers; it says the rest itself. Without data, the list and dy go unchecked:
    that would only tie symbolic sizes to each other."""
    groups = convolution[3]
    torch._check(x.dim() == 5 and w.dim() == 5, lambda: f"x and w must have 5 axes, not {x.dim()} and {w.dim()}")
    torch._check(x.dtype in DTYPES, lambda: f"{x.dtype} is none of {', '.join(map(str, DTYPES))}")
    torch._check(x.shape[1] == w.shape[0], lambda: f"x has {x.shape[1]} channels, w {w.shape[0]} input channels")
    wanted = [("w", w, x.dtype, None), ("bias", bias, x.dtype, [w.shape[1] * groups])]
    if dy is not None or entries:
        shape = out_shape(x, w, *convolution)
        wanted.append(("dy", dy, x.dtype, shape))
        for _, its in by_entry(entries, tensors):
            wanted += [(name, t, x.dtype, shape) if name == "residual" else (name, t, wide(x), shape[1:2])
                       for name, (_, t) in its.items()]
    for name, t, dtype, shape in wanted:
        if t is not None:
            torch._check(t.dtype == dtype, lambda: f"x is {x.dtype}, but {name} is {t.dtype}")
            torch._check(t.device == x.device, lambda: f"x is on {x.device}, but {name} on {t.device}")
            torch._check(shape is None or list(t.shape) == shape, lambda: f"{name} is {list(t.shape)}, not {shape}")


# ---- kernels ---------------------------------------------------------------------------------------------------------

def plan(gradients, x, w, convolution, layout, pointers, dy=None, entries=(), tensors=(), backward=0):
    stride, padding, output_padding, groups, dilation, tf32 = convolution
    ops = tuple((entry.kind(), entry.groups, entry.a, entry.b,
                 strides_of(its["residual"][1], layout) if "residual" in its else None)
                for entry, its in by_entry(entries, tensors))
    return c.plan(c.Problem(
        gradients, x.device.index if x.is_cuda else None, x.shape[0], x.shape[1], w.shape[1] * groups, groups,
        tuple(x.shape[2:]), tuple(w.shape[2:]), tuple(stride), tuple(padding), tuple(output_padding), tuple(dilation),
        DTYPES[x.dtype], layout, int(tf32), 0 if x.is_cuda else torch.get_num_threads(), alignment_of(*pointers),
        strides_of(x, layout), None if dy is None else strides_of(dy, layout), ops, backward))


def run(planned, io, device):
    """On PyTorch's current stream, in workspace of its allocator."""
    if planned.workspace_bytes:
        workspace = torch.empty(planned.workspace_bytes, dtype=torch.uint8, device=device)
        io.workspace, io.workspace_bytes = workspace.data_ptr(), planned.workspace_bytes
    if device.type == "cuda":
        io.stream = torch.cuda.current_stream(device).cuda_stream
    c.run(planned, io)


def on_device(kernel):
    """Makes the first tensor's card the current one, as the library's plans want it."""
    @functools.wraps(kernel)
    def call(x, *rest):
        if not x.is_cuda:
            return kernel(x, *rest)
        with torch.cuda.device(x.device):
            return kernel(x, *rest)
    return call


def prepared(entries, tensors, layout):
    """The tensors of the list as the library takes them: residuals by strides, small ones dense."""
    tensors = list(tensors)
    for _, its in by_entry(entries, tensors):
        for name, (index, tensor) in its.items():
            tensors[index] = readable(tensor, layout) if name == "residual" else tensor.contiguous()
    return tensors


def point(io, entries, tensors, statistics, places):
    """Sets the pointers of the entries' tensors and statistics."""
    for io_op, (_, its), slices in zip(io.ops, by_entry(entries, tensors), places):
        for name, (_, tensor) in its.items():
            if name not in slices:
                setattr(io_op, name, tensor.data_ptr())
        for name, place in slices.items():
            setattr(io_op, name, statistics.data_ptr() + place.start * statistics.element_size())


def forward(x, w, bias, convolution, entries=(), tensors=(), keeps=c.SAVES_NOTHING, backward=0):
    """y, saved, statistics."""
    check(x, w, bias, convolution, entries, tensors)
    layout = layout_of(x, w)
    x, w, tensors = readable(x, layout), w.contiguous(), prepared(entries, tensors, layout)
    bias = None if bias is None else bias.contiguous()
    y, saved, statistics = outputs(x, w, convolution, layout, entries, keeps)
    places, _ = statistics_of(entries, y.shape[0], y.shape[1])
    for (_, its), place in zip(by_entry(entries, tensors), places):
        for name in place.keys() & its.keys():
            statistics[place[name]] = its[name][1]
    planned = plan(c.FORWARD, x, w, convolution, layout, (x, w), None, entries, tensors, backward)
    io = c.IO(x=x.data_ptr(), w=w.data_ptr(), y=y.data_ptr(), bias=None if bias is None else bias.data_ptr(),
              saved=saved.data_ptr() or None)
    point(io, entries, tensors, statistics, places)
    run(planned, io, x.device)
    return y, saved, statistics


def outputs(x, w, convolution, layout, entries=(), keeps=c.SAVES_NOTHING):
    """Room for what forward returns."""
    y = empty(out_shape(x, w, *convolution), x, layout)
    _, count = statistics_of(entries, y.shape[0], y.shape[1])
    return y, torch.empty_like(y) if keeps == c.SAVES_CONVOLUTION else nothing(x), empty([count], x, dtype=wide(x))


def gradients(dy, x, w, convolution, wanted, y=None, saved=None, statistics=None, entries=(), tensors=()):
    """dx, dw, dbias and those of the list's tensors, as `wanted` says in this order."""
    check(x, w, None, convolution, entries, tensors, dy)
    layout = layout_of(x, w)
    dy, x, w, tensors = readable(dy, layout), readable(x, layout), w.contiguous(), prepared(entries, tensors, layout)
    dx, dw, dbias, d_tensors = results = gradient_outputs(dy, x, w, layout, wanted, tensors)
    bits = (c.BACKWARD_X * wanted[0] | c.BACKWARD_W * wanted[1] | c.BACKWARD_BIAS * wanted[2]
            | c.BACKWARD_OPS * any(wanted[3:]))
    if not bits:
        return results
    pointers = [t for t in (x, w, dy, y, saved) if t is not None]
    planned = plan(bits, x, w, convolution, layout, pointers, dy, entries, tensors)
    io = c.IO(x=x.data_ptr(), w=w.data_ptr(), dy=dy.data_ptr(), dx=dx.data_ptr() or None, dw=dw.data_ptr() or None,
              dbias=dbias.data_ptr() or None)
    if planned.saves == c.SAVES_OUTPUT:
        io.y = y.data_ptr()
    elif planned.saves == c.SAVES_CONVOLUTION:
        io.saved = saved.data_ptr()
    point(io, entries, tensors, statistics, statistics_of(entries, dy.shape[0], dy.shape[1])[0])
    for io_op, (_, its) in zip(io.ops, by_entry(entries, tensors)):
        for name, (index, _) in its.items():
            if wanted[3 + index]:
                setattr(io_op, "d_" + name, d_tensors[index].data_ptr())
    run(planned, io, x.device)
    return results


def gradient_outputs(dy, x, w, layout, wanted, tensors):
    """Room for what gradients returns."""
    def of_tensor(t):                                   # a residual's gradient has dy's shape, and it dy's layout
        return empty(t.shape, t, layout if t.dim() == 5 else c.NCDHW)
    return (empty(x.shape, x, layout) if wanted[0] else nothing(x), empty(w.shape, w) if wanted[1] else nothing(x),
            empty([dy.shape[1]], x) if wanted[2] else nothing(x),
            [of_tensor(t) if want else nothing(t) for t, want in zip(tensors, wanted[3:])])


# ---- the operators: their kernels, and their shapes without data (meta tensors, torch.compile) -----------------------

@on_device
def conv_transpose3d(x, w, bias, *convolution):
    return forward(x, w, bias, convolution)[0]


def fake_conv_transpose3d(x, w, bias, *convolution):
    check(x, w, bias, convolution)
    return outputs(x, w, convolution, layout_of(x, w))[0]


@on_device
def conv_transpose3d_backward(dy, x, w, *convolution_wanted):
    *convolution, wanted = convolution_wanted
    return gradients(dy, x, w, convolution, wanted)[:3]


def fake_conv_transpose3d_backward(dy, x, w, *convolution_wanted):
    return gradient_outputs(dy, x, w, layout_of(x, w), convolution_wanted[-1], ())[:3]


@on_device
def fused(x, w, bias, *rest):
    *convolution, ops, op_groups, op_numbers, tensors, backward = rest
    return forward(x, w, bias, convolution, entries_of(ops, op_groups, op_numbers), tensors,
                   saves(ops, tuple(op_numbers), backward), backward)


def fake_fused(x, w, bias, *rest):
    *convolution, ops, op_groups, op_numbers, tensors, backward = rest
    check(x, w, bias, convolution)
    return outputs(x, w, convolution, layout_of(x, w), entries_of(ops, op_groups, op_numbers),
                   saves(ops, tuple(op_numbers), backward))


@on_device
def fused_backward(dy, x, w, y, saved, statistics, *rest):
    *convolution, ops, op_groups, op_numbers, tensors, wanted = rest
    entries = entries_of(ops, op_groups, op_numbers)
    return gradients(dy, x, w, convolution, wanted, y, saved, statistics, entries, tensors)


def fake_fused_backward(dy, x, w, y, saved, statistics, *rest):
    *_, tensors, wanted = rest
    return gradient_outputs(dy, x, w, layout_of(x, w), wanted, tensors)


# ---- registration ----------------------------------------------------------------------------------------------------

CONVOLUTION = "SymInt[] stride, SymInt[] padding, SymInt[] output_padding, SymInt groups, SymInt[] dilation, bool tf32"
LIST = "str ops, SymInt[] op_groups, float[] op_numbers, Tensor[] tensors"
SCHEMAS = {
    "conv_transpose3d": f"(Tensor x, Tensor w, Tensor? bias, {CONVOLUTION}) -> Tensor",
    "conv_transpose3d_backward": f"(Tensor dy, Tensor x, Tensor w, {CONVOLUTION}, bool[] wanted)"
                                 " -> (Tensor, Tensor, Tensor)",
    "fused": f"(Tensor x, Tensor w, Tensor? bias, {CONVOLUTION}, {LIST}, int backward) -> (Tensor, Tensor, Tensor)",
    "fused_backward": "(Tensor dy, Tensor x, Tensor w, Tensor? y, Tensor saved, Tensor statistics,"
                      f" {CONVOLUTION}, {LIST}, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor[])",
}
# The memory format of what comes out follows that of what goes in, so a compiler must keep the latter.
TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
for _name, _schema in SCHEMAS.items():
    torch.library.define(f"convt3d::{_name}", _schema, tags=TAGS)
    torch.library.impl(f"convt3d::{_name}", ("cpu", "cuda"))(globals()[_name])
    torch.library.register_fake(f"convt3d::{_name}")(globals()["fake_" + _name])
_op = torch.ops.convt3d


# ---- gradients -------------------------------------------------------------------------------------------------------

def kept(gradient, wanted):
    return gradient if wanted else None


def _setup(ctx, inputs, output):
    x, w, _, *ctx.convolution = inputs
    ctx.save_for_backward(x, w)


def _backward(ctx, dy):
    wanted = list(ctx.needs_input_grad[:3])
    gradients = _op.conv_transpose3d_backward(dy, *ctx.saved_tensors, *ctx.convolution, wanted)
    return *map(kept, gradients, wanted), *[None] * 6


def _setup_backward(ctx, inputs, output):
    dy, x, w, *ctx.convolution, ctx.wanted = inputs
    ctx.save_for_backward(dy, x, w)
    ctx.set_materialize_grads(False)


def _double_backward(ctx, ddx, ddw, ddbias):
    """From the gradients of dx, dw and dbias those of dy, x and w: dx, dw and dbias are linear in each of these."""
    dy, x, w = ctx.saved_tensors
    ddx, ddw, ddbias = map(kept, (ddx, ddw, ddbias), ctx.wanted)
    of_dy = of_x = of_w = None
    if ctx.needs_input_grad[0]:
        pairs = [(a, b) for a, b in ((ddx, w), (x, ddw)) if a is not None and b is not None]
        biases = [ddbias] + [None] * len(pairs)
        terms = [_op.conv_transpose3d(*pair, bias, *ctx.convolution) for pair, bias in zip(pairs, biases)]
        if not terms and ddbias is not None:
            terms = [ddbias.reshape(-1, 1, 1, 1).expand_as(dy)]
        of_dy = sum(terms[1:], terms[0]) if terms else None
    if ctx.needs_input_grad[1] and ddw is not None:
        of_x = _op.conv_transpose3d_backward(dy, x, ddw, *ctx.convolution, [True, False, False])[0]
    if ctx.needs_input_grad[2] and ddx is not None:
        of_w = _op.conv_transpose3d_backward(dy, ddx, w, *ctx.convolution, [False, True, False])[1]
    return of_dy, of_x, of_w, *[None] * 7


def _setup_fused(ctx, inputs, output):
    x, w, _, *ctx.rest, tensors, backward = inputs      # rest: CONVOLUTION and LIST but for its tensors
    y, saved, statistics = output
    ops, _, op_numbers = ctx.rest[-3:]
    y = y if saves(ops, tuple(op_numbers), backward) == c.SAVES_OUTPUT else None
    ctx.mark_non_differentiable(saved, statistics)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, w, y, saved, statistics, *tensors)


def _backward_fused(ctx, dy, *_):
    x, w, y, saved, statistics, *tensors = ctx.saved_tensors
    if dy is None:
        return *[None] * 12, [None] * len(tensors), None
    wanted = [*ctx.needs_input_grad[:3], *ctx.needs_input_grad[12]]
    *gradients, d_tensors = _op.fused_backward(dy, x, w, y, saved, statistics, *ctx.rest, tensors, wanted)
    return *map(kept, gradients, wanted), *[None] * 9, list(map(kept, d_tensors, wanted[3:])), None


def _refuse(ctx, *_):
    raise RuntimeError("convt3d: a convolution with a list has first derivatives; for higher ones, call "
                       "conv_transpose3d without `ops` and PyTorch's functions after it")


torch.library.register_autograd("convt3d::conv_transpose3d", _backward, setup_context=_setup)
torch.library.register_autograd("convt3d::conv_transpose3d_backward", _double_backward, setup_context=_setup_backward)
torch.library.register_autograd("convt3d::fused", _backward_fused, setup_context=_setup_fused)
torch.library.register_autograd("convt3d::fused_backward", _refuse)


# ---- autocast: to the lower precision, as PyTorch's own convolutions -------------------------------------------------

def _autocast(name, device):
    def cast(t):
        eligible = t is not None and t.device.type == device and t.is_floating_point() and t.dtype != torch.float64
        return t.to(torch.get_autocast_dtype(device)) if eligible else t

    def call(x, w, bias, *rest):
        rest = list(rest)
        if name == "fused":                             # residuals too; scales and statistics stay float
            names = [name for _, names in parse(rest[6]) for name in names]
            rest[9] = [cast(t) if name == "residual" else t for name, t in zip(names, rest[9])]
        with torch.autocast(device, enabled=False):
            return getattr(_op, name)(cast(x), cast(w), cast(bias), *rest)
    return call


for _name in ("conv_transpose3d", "fused"):
    for _device in ("cpu", "cuda"):
        torch.library.impl(f"convt3d::{_name}", "Autocast" + _device.upper())(_autocast(_name, _device))
