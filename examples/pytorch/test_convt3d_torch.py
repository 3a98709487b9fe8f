"""Promise: convt3d_torch is PyTorch's transposed convolution, to autograd, autocast, torch.compile and CUDA graphs too.

    CONVT3D_LIBRARY=libconvt3d.so [CONVT3D_TEST_DEVICE=cuda] test_convt3d_torch.py [CONVT3D_H CC...]

Integer data must come out bit for bit, on any device; the oracle is PyTorch in double on the CPU. With the path of the
header and a C compiler, the structs of _library.py are held against it. Speaks TAP.
"""
import contextlib
import copy
import ctypes
import importlib.metadata
import importlib.util
import io
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings

HERE = os.path.dirname(os.path.abspath(__file__))
DEVICE = os.environ.get("CONVT3D_TEST_DEVICE", "cpu")

try:
    import torch
except ImportError as exception:
    print(f"1..0 # SKIP no PyTorch: {exception}")
    sys.exit(0)
if tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) < (2, 4):
    print(f"1..0 # SKIP PyTorch {torch.__version__} is older than 2.4")
    sys.exit(0)
if DEVICE == "cuda" and not torch.cuda.is_available():
    print("1..0 # SKIP no GPU")
    sys.exit(0)

import torch.nn.functional as F
from torch.library import opcheck

sys.path.insert(0, HERE)
import convt3d_torch as ct
from convt3d_torch import Op, _library

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
FORMATS = (torch.contiguous_format, torch.channels_last_3d)
EVERYTHING = [2, 1, 3], [1, 0, 2], [1, 0, 1], 2, [1, 3, 2]          # stride, padding, output_padding, groups, dilation
PLAIN = [1, 1, 1], [0, 0, 0], [0, 0, 0], 1, [1, 1, 1]
CASES = {                                               # x, w, then as conv_transpose3d
    "everything": ((2, 4, 3, 4, 5), (4, 3, 3, 2, 2), *EVERYTHING),
    "kernel is stride": ((2, 16, 4, 5, 6), (16, 8, 2, 2, 2), 2),
    "kernel 3": ((1, 8, 5, 6, 7), (8, 12, 3, 3, 3)),
    "upsampling": ((2, 16, 4, 4, 5), (16, 8, 3, 3, 3), 2, 1, 1),
    "many channels": ((1, 64, 4, 5, 9), (64, 64, 3, 3, 3), 1, 1),
    "depth-wise": ((2, 6, 4, 4, 5), (6, 1, 3, 3, 3), 2, 1, 1, 6),
    "dilated": ((1, 3, 4, 5, 6), (3, 2, 3, 3, 3), 2, 1, 0, 1, 2),
    "one voxel": ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
    "no sample": ((0, 3, 4, 4, 4), (3, 2, 2, 2, 2)),
}
tests = []


class Skip(Exception):
    pass


def test(function):
    tests.append(function)
    return function


def integers(shape, dtype=torch.double, most=3):
    return torch.randint(-most, most + 1, tuple(shape)).to(DEVICE, dtype)


def reals(*shape, dtype=torch.double):
    return torch.randn(shape, dtype=dtype, device=DEVICE, requires_grad=True)


def same(got, want, what=""):
    """Equal as values, in type and shape; the oracle's double is rounded once."""
    got = got.detach().cpu()
    want = want.detach().cpu().to(got.dtype)
    if not torch.equal(got, want):
        raise AssertionError(f"{what}: {list(got.shape)} {list(want.shape)}, apart by up to "
                             f"{(got.double() - want.double()).abs().max() if got.shape == want.shape else '-'}")


def near(got, want, what="", tolerance=1e-4):
    got, want = got.detach().double().cpu(), want.detach().double().cpu()
    worst = (got - want).abs().max().item()
    if got.shape != want.shape or not worst <= tolerance * max(1, want.abs().max().item()):
        raise AssertionError(f"{what}: apart by {worst}")


def data(case, dtype, memory_format=torch.contiguous_format):
    """x, w, bias and the rest of the arguments, integers."""
    x_shape, w_shape, *convolution = CASES[case]
    groups = convolution[3] if len(convolution) > 3 else 1
    x = integers(x_shape, dtype).to(memory_format=memory_format).requires_grad_()
    w, bias = integers(w_shape, dtype).requires_grad_(), integers([w_shape[1] * groups], dtype).requires_grad_()
    return (x, w, bias), convolution


def oracle(leaves, convolution):
    """PyTorch's y in double on the CPU, and the leaves that it came from."""
    leaves = [leaf.detach().double().cpu().requires_grad_() for leaf in leaves]
    return F.conv_transpose3d(*leaves, *convolution), leaves


@contextlib.contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- values ----------------------------------------------------------------------------------------------------------

@test
def forward_and_gradients_of_integers_are_exact():
    for case, dtype, memory_format in itertools.product(CASES, TYPES, FORMATS):
        leaves, convolution = data(case, dtype, memory_format)
        y = ct.conv_transpose3d(*leaves, *convolution)
        want, want_leaves = oracle(leaves, convolution)
        what = f"{case}, {dtype}, {memory_format}"
        same(y, want, what + ": y")
        dy = integers(want.shape, dtype, 2)
        got = torch.autograd.grad(y, leaves, dy.to(memory_format=memory_format))
        for name, g, w in zip(("dx", "dw", "dbias"), got, torch.autograd.grad(want, want_leaves, dy.double().cpu())):
            same(g, w, f"{what}: {name}")


@test
def reals_stay_close():
    for dtype, tolerance in zip(TYPES, (1e-6, 1e-14, 2e-3, 2e-2)):
        x, w, b = (reals(*shape, dtype=dtype) for shape in ((2, 8, 4, 5, 6), (8, 4, 3, 3, 3), (8,)))
        convolution = 2, 1, 1, 2
        y = ct.conv_transpose3d(x, w, b, *convolution)
        want, want_leaves = oracle((x, w, b), convolution)
        near(y, want, f"{dtype}: y", tolerance)
        dy = torch.randn_like(y)
        wanted = torch.autograd.grad(want, want_leaves, dy.double().cpu())
        for g, r in zip(torch.autograd.grad(y, (x, w, b), dy), wanted):
            near(g, r, f"{dtype}: gradient", tolerance)


@test
def each_gradient_alone_is_the_one_computed_with_the_others():
    leaves, convolution = data("everything", torch.float32)
    y = ct.conv_transpose3d(*leaves, *convolution)
    dy = torch.randn_like(y)
    together = torch.autograd.grad(y, leaves, dy)
    for i, leaf in enumerate(leaves):
        some = [t if t is leaf else t.detach() for t in leaves]
        same(torch.autograd.grad(ct.conv_transpose3d(*some, *convolution), leaf, dy)[0], together[i], f"input {i}")


@test
def tensors_are_read_where_they_lie():
    w = integers((4, 3, 2, 2, 2), torch.float32).requires_grad_()
    base = integers((6, 9, 8, 7, 6), torch.float32)
    views = {"crop": base[1:3, 2:6, 1:7:2, 1:5, 2:], "channel step": base[:, 1::2],
             "permuted": base[:, 1:5].transpose(2, 4),
             "one odd element in": base.flatten()[1:1 + 2 * 4 * 3 * 3 * 3].view(2, 4, 3, 3, 3),
             "channels last, cropped": base[:, :4].contiguous(memory_format=torch.channels_last_3d)[..., 1:, 1:, 1:],
             "a sample repeated": base[:1, :4].expand(3, -1, -1, -1, -1),
             "a channel repeated": base[:, :1].expand(-1, 4, -1, -1, -1),
             "one value": base[0, 0, 0, 0, 0].expand(2, 4, 3, 4, 5)}
    for name, x in views.items():
        x = x.detach().requires_grad_()
        y, want = ct.conv_transpose3d(x, w, stride=2), ct.conv_transpose3d(x.contiguous(), w, stride=2)
        same(y, want, name)
        dy = integers(y.shape[::-1], torch.float32).permute(4, 3, 2, 1, 0)
        for g, r in zip(torch.autograd.grad(y, (x, w), dy), torch.autograd.grad(want, (x, w), dy.contiguous())):
            same(g, r, name + ", gradient")
    for dy in (torch.ones(1, device=DEVICE).expand_as(y), integers(y.shape[-1:], torch.float32).expand_as(y)):
        y = ct.conv_transpose3d(x, w, stride=2)
        same(torch.autograd.grad(y, w, dy)[0],
             torch.autograd.grad(ct.conv_transpose3d(x, w, stride=2), w, dy.contiguous())[0], "expanded gradient")


@test
def memory_format_goes_through():
    x, w = integers((2, 4, 3, 4, 5), torch.float32), integers((4, 6, 3, 3, 3), torch.float32)
    for x_format, w_format in itertools.product(FORMATS, FORMATS):
        last = torch.channels_last_3d in (x_format, w_format)
        leaf = x.to(memory_format=x_format).requires_grad_()
        y = ct.conv_transpose3d(leaf, w.to(memory_format=w_format), stride=2)
        reference = F.conv_transpose3d(leaf.to(torch.float32), w.to(memory_format=w_format), stride=2)
        if DEVICE == "cuda" and reference.stride() != y.stride():
            raise AssertionError(f"{y.stride()}, PyTorch's are {reference.stride()}")
        if not y.is_contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format):
            raise AssertionError(f"{x_format}, {w_format}: {y.stride()}")
        dx, = torch.autograd.grad(y.square().sum(), leaf)
        assert not last or dx.is_contiguous(memory_format=torch.channels_last_3d), dx.stride()


@test
def no_batch_numbers_for_all_axes_and_negative_padding():
    x, w, b = (integers(shape, torch.float32) for shape in ((4, 3, 4, 5), (4, 3, 2, 3, 2), (3,)))
    same(ct.conv_transpose3d(x, w, b, (2,), [1], 0), F.conv_transpose3d(x.double(), w.double(), b.double(), 2, 1))
    wider = F.pad(ct.conv_transpose3d(x, w, None, 2), (1,) * 6) + b.view(3, 1, 1, 1)
    same(ct.conv_transpose3d(x, w, b, 2, -1), wider, "negative padding")
    skip = integers(wider.shape, torch.float32)
    same(ct.conv_transpose3d(x, w, b, 2, -1, ops=["relu", Op("add", residual=skip)]), wider.relu() + skip, "no batch")


@test
def the_same_bits_every_time():
    leaves, convolution = data("many channels", torch.float32)
    leaves = [torch.randn_like(leaf).requires_grad_() for leaf in leaves]
    dy, first = None, None
    for count in (1, 2, 3, 1):
        with threads(count):
            y = ct.conv_transpose3d(*leaves, *convolution)
            dy = torch.randn_like(y) if dy is None else dy
            results = [y, *torch.autograd.grad(y, leaves, dy)]
        first = first or results
        for one, other in zip(first, results):
            same(one, other, f"{count} threads")


@test
def tf32_is_a_switch():
    x, w = reals(2, 32, 16, 16, 16, dtype=torch.float32), reals(32, 32, 3, 3, 3, dtype=torch.float32)
    want = F.conv_transpose3d(x.double(), w.double())
    problems, plan = [], _library.plan
    _library.plan = lambda problem: problems.append(problem) or plan(problem)
    try:
        for allowed, tolerance in ((False, 2e-6), (True, 2e-3)):
            ct.settings.allow_tf32 = allowed
            y = ct.conv_transpose3d(x, w)
            ct.settings.allow_tf32 = False              # backward keeps to what forward was told
            y.sum().backward()
            near(y, want, f"{allowed}", tolerance)
    finally:
        _library.plan, ct.settings.allow_tf32 = plan, False
    assert [problem.math for problem in problems] == [0, 0, 1, 1], problems


# ---- the list --------------------------------------------------------------------------------------------------------

def list_cases():
    """What may follow, and the same by PyTorch; leaves: r of y's shape, s and t of its channels."""
    return {
        "relu, group_norm": (lambda r, s, t: ["relu", Op("group_norm", groups=2, a=1e-5, scale=s, shift=t)],
                             lambda v, r, s, t: F.group_norm(v.relu(), 2, s, t)),
        "batch_norm, silu": (lambda r, s, t: [Op("batch_norm", a=1e-5, scale=s, shift=t), "silu"],
                             lambda v, r, s, t: F.silu(F.batch_norm(v, None, None, s, t, True))),
        "channel_affine, add, leaky_relu": (
            lambda r, s, t: [Op("channel_affine", scale=s, shift=t), Op("add", residual=r), Op("leaky_relu", a=0.1)],
            lambda v, r, s, t: F.leaky_relu(v * s.view(-1, 1, 1, 1) + t.view(-1, 1, 1, 1) + r, 0.1)),
        "multiply, gelu, group_norm, tanh, add": (
            lambda r, s, t: [Op("multiply", residual=r), "gelu", Op("group_norm", groups=1, a=1e-3, scale=s), "tanh",
                             Op("add", residual=r)],
            lambda v, r, s, t: torch.tanh(F.group_norm(F.gelu(v * r), 1, s, None, 1e-3)) + r),
        "tanh": (lambda r, s, t: ["tanh"], lambda v, r, s, t: torch.tanh(v)),
        "affine": (lambda r, s, t: [Op("affine", a=2, b=-1)], lambda v, r, s, t: 2 * v - 1),
    } | {kind: (lambda r, s, t, op=op: [op], lambda v, r, s, t, function=function: function(v))
         for kind, op, function in (
             ("relu6", "relu6", F.relu6), ("sigmoid", "sigmoid", torch.sigmoid), ("mish", "mish", F.mish),
             ("gelu_tanh", "gelu_tanh", lambda v: F.gelu(v, approximate="tanh")),
             ("hardswish", "hardswish", lambda v: v * hardsigmoid(v)), ("hardsigmoid", "hardsigmoid", hardsigmoid),
             ("elu", Op("elu", a=1.5), lambda v: F.elu(v, 1.5)),
             ("softplus", Op("softplus", a=2, b=20), lambda v: F.softplus(v, 2)),
             ("clamp", Op("clamp", a=-1, b=2), lambda v: v.clamp(-1, 2)))}


def hardsigmoid(v):
    """PyTorch's has its 1/6 in float, in double too, and slopes at the corners that changed between its versions."""
    return torch.where(v.abs() < 3, v / 6 + 0.5, (v > 0).to(v))


def list_leaves(dtype, convolution, *shapes):
    x, w, b = (reals(*shape, dtype=dtype) for shape in shapes)
    shape = F.conv_transpose3d(x.double(), w.double(), b.double(), *convolution).shape
    return x, w, b, reals(*shape, dtype=dtype), reals(6, dtype=_wide(dtype)), reals(6, dtype=_wide(dtype))


def rounded(convolution, dtype):
    """What the list goes on from where the convolution is kept; the gradient passes through."""
    return convolution + (convolution.to(dtype).double() - convolution).detach()


def _wide(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


@test
def lists_and_their_gradients_are_those_of_pytorch():
    for dtype, tolerance in zip(TYPES, (2e-5, 1e-12, 1e-2, 8e-2)):
        for name, (ops, function) in list_cases().items():
            leaves = list_leaves(dtype, EVERYTHING, (2, 4, 2, 3, 2), (4, 3, 3, 2, 2), (6,))
            y = ct.conv_transpose3d(*leaves[:3], *EVERYTHING, ops=ops(*leaves[3:]))
            doubles = [leaf.detach().double().cpu().requires_grad_() for leaf in leaves]
            want = function(rounded(F.conv_transpose3d(*doubles[:3], *EVERYTHING), dtype), *doubles[3:])
            near(y, want, f"{name}, {dtype}", tolerance)
            dy = torch.randn_like(y)
            got = torch.autograd.grad(y, leaves, dy, allow_unused=True)
            wanted = torch.autograd.grad(want, doubles, dy.double().cpu(), allow_unused=True)
            for leaf, g, r in zip("xwbrst", got, wanted):
                assert (g is None) == (r is None), (name, leaf)
                if g is not None:
                    near(g, r, f"{name}, {dtype}: gradient of {leaf}", tolerance)


@test
def running_statistics_follow_batch_norm():
    x, w, s, t = (reals(*shape, dtype=torch.float32) for shape in ((3, 4, 3, 3, 3), (4, 5, 2, 2, 2), (5,), (5,)))
    norm = torch.nn.BatchNorm3d(5, momentum=0.3).to(DEVICE)
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    for _ in range(3):
        y = ct.conv_transpose3d(x, w, stride=2, ops=[Op("batch_norm", a=norm.eps, b=0.3, running_mean=mean,
                                                        running_var=var)])
        near(y, norm(F.conv_transpose3d(x, w, stride=2)), "y", 1e-4)
        near(mean, norm.running_mean, "running_mean", 1e-5)
        near(var, norm.running_var, "running_var", 1e-5)


@test
def residuals_are_broadcast():
    x, w = reals(2, 4, 3, 3, 3), reals(4, 5, 2, 2, 2)
    for shape in ((), (6,), (5, 1, 1, 1), (2, 1, 6, 6, 6), (1, 1, 1, 1, 1)):
        residual = reals(*shape)
        y = ct.conv_transpose3d(x, w, stride=2, ops=[Op("multiply", residual=residual)])
        want = F.conv_transpose3d(x, w, stride=2) * residual
        near(y, want, str(shape), 1e-12)
        leaves = x, w, residual
        for g, r in zip(torch.autograd.grad(y.sum(), leaves), torch.autograd.grad(want.sum(), leaves)):
            near(g, r, f"{shape}, gradient", 1e-12)


# ---- what PyTorch asks of an operator --------------------------------------------------------------------------------

@test
def opcheck_passes():
    for dtype, memory_format in ((torch.float32, FORMATS[0]), (torch.bfloat16, FORMATS[1])):
        x, w, b = (reals(*shape, dtype=dtype) for shape in ((2, 4, 2, 3, 2), (4, 3, 3, 2, 2), (6,)))
        x = x.detach().to(memory_format=memory_format).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opcheck(torch.ops.convt3d.conv_transpose3d.default, (x, w, b, *EVERYTHING, False))
            opcheck(torch.ops.convt3d.conv_transpose3d.default, (x[:, 1:3], w[:2], None, *PLAIN, False))
            y = torch.ops.convt3d.conv_transpose3d(x, w, b, *EVERYTHING, False)
            dy = torch.randn_like(y).requires_grad_()
            for wanted in ([True] * 3, [False, True, False]):
                opcheck(torch.ops.convt3d.conv_transpose3d_backward.default, (dy, x, w, *EVERYTHING, False, wanted))
            check_fused(x, w, b, dy)


def check_fused(x, w, b, dy):
    wide = _wide(x.dtype)
    residual, scale, shift = torch.randn_like(dy).requires_grad_(), reals(6, dtype=wide), reals(6, dtype=wide)
    running = torch.zeros(6, dtype=wide, device=DEVICE), torch.ones(6, dtype=wide, device=DEVICE)
    ops = "silu;multiply:residual;group_norm:scale,shift;batch_norm:scale,running_mean,running_var"
    rest = *EVERYTHING, False, ops, [0, 0, 2, 0], [0., 0., 0., 0., 1e-5, 0., 1e-5, 0.1]
    tensors = [residual, scale, shift, scale, *running]
    opcheck(torch.ops.convt3d.fused.default, (x, w, b, *rest, tensors, 15))
    opcheck(torch.ops.convt3d.fused.default, (x, w, b, *EVERYTHING, False, "tanh", [0], [0., 0.], [], 7))
    with torch.no_grad():
        _, saved, statistics = torch.ops.convt3d.fused(x, w, b, *rest, tensors, 15)
    dy, x, w, *tensors = (t.detach() for t in (dy, x, w, *tensors))
    opcheck(torch.ops.convt3d.fused_backward.default,
            (dy, x, w, None, saved, statistics, *rest, tensors, [True] * 7 + [False] * 2))


@test
def gradcheck_and_gradgradcheck_pass():
    for convolution in (EVERYTHING, ([2, 1, 3], [-1, 0, 1], [0, 0, 0], 1, [1, 1, 2])):
        leaves = reals(1, 4, 2, 2, 2), reals(4, 2, 2, 1, 2), reals(2 * convolution[3])
        torch.autograd.gradcheck(lambda *t: ct.conv_transpose3d(*t, *convolution), leaves)
        torch.autograd.gradgradcheck(lambda *t: ct.conv_transpose3d(*t, *convolution), leaves)


@test
def gradcheck_of_lists_passes():
    for name in ("multiply, gelu, group_norm, tanh, add", "batch_norm, silu", "channel_affine, add, leaky_relu",
                 "tanh"):
        ops = list_cases()[name][0]
        convolution = [2, 1, 2], [0, 0, 0], [1, 0, 0], 2, [1, 2, 1]
        leaves = list_leaves(torch.double, convolution, (2, 4, 1, 2, 1), (4, 3, 1, 2, 1), (6,))
        torch.autograd.gradcheck(lambda *t: ct.conv_transpose3d(*t[:3], *convolution, ops=ops(*t[3:])), leaves)


@test
def second_derivatives_are_those_of_pytorch():
    for case in ("everything", "upsampling", "depth-wise"):
        results = []
        leaves, convolution = data(case, torch.double)
        for function in (ct.conv_transpose3d, F.conv_transpose3d):
            y = function(*leaves, *convolution)
            first = torch.autograd.grad((y * torch.tanh(y / 64)).sum(), leaves, create_graph=True)
            results.append(torch.autograd.grad(sum((g * g).sum() for g in first), leaves))
        for g, r in zip(*results):
            near(g, r, case, 1e-11)


@test
def a_second_derivative_of_a_list_is_refused_in_words():
    x, w = reals(1, 2, 2, 2, 2), reals(2, 2, 2, 2, 2)
    g, = torch.autograd.grad(ct.conv_transpose3d(x, w, ops=["silu"]).sum(), x, create_graph=True)
    refuses(lambda: g.sum().backward(), RuntimeError, "first derivatives")


def refuses(call, kind, words):
    try:
        call()
    except kind as exception:
        assert words in str(exception), f"{words!r} is not in {exception}"
    else:
        raise AssertionError(f"nothing was raised, {kind.__name__} was wanted: {words}")


@test
def compiled_as_one_graph():
    module = ct.ConvTranspose3dReLUGroupNorm(4, 8, 3, 2, bias=True, stride=2, padding=1).to(DEVICE)
    chain = torch.nn.Sequential(ct.ConvTranspose3d(4, 6, 2, 2), torch.nn.SiLU(), ct.ConvTranspose3d(6, 4, 3)).to(DEVICE)
    for model, dynamic in itertools.product((module, chain), (False, True)):
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for shape, memory_format in (((2, 4, 3, 4, 5), FORMATS[0]), ((1, 4, 5, 3, 4), FORMATS[1])):
            x = reals(*shape, dtype=torch.float32).detach().to(memory_format=memory_format)
            grads = []
            for function in (model, compiled):
                model.zero_grad()
                y = function(x)
                y.square().mean().backward()
                grads.append([y.detach().clone()] + [p.grad.clone() for p in model.parameters()])
            for g, r in zip(*grads):
                near(g, r, f"dynamic={dynamic}", 1e-5)


@test
def meta_tensors_have_shapes():
    for memory_format in FORMATS:
        x = torch.empty(2, 4, 3, 4, 5, device="meta").to(memory_format=memory_format)
        y = ct.ConvTranspose3dReLUGroupNorm(4, 8, 3, 2, stride=2, device="meta")(x)
        assert y.is_meta and y.shape == (2, 8, 7, 9, 11) and y.is_contiguous(memory_format=memory_format)
    x = torch.empty(2, 4, 3, 4, 5, device="meta", requires_grad=True)
    ct.ConvTranspose3d(4, 2, 3, device="meta")(x).sum().backward()
    assert x.grad.shape == x.shape


@test
def autocast_goes_to_the_lower_precision():
    x, skip = reals(2, 4, 3, 3, 3, dtype=torch.float32), reals(2, 8, 6, 6, 6, dtype=torch.float32)
    convolution = ct.ConvTranspose3d(4, 8, 2, 2).to(DEVICE)
    norm = torch.nn.GroupNorm(2, 8).to(DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        assert convolution(x).dtype == torch.bfloat16 == torch.nn.ConvTranspose3d.forward(convolution, x).dtype
        assert convolution(x.half()).dtype == torch.bfloat16
        y = convolution.convolve(x, ops=["relu", Op("group_norm", groups=2, a=1e-5, scale=norm.weight, shift=norm.bias),
                                         Op("add", residual=skip)])
        assert y.dtype == torch.bfloat16
        near(y, norm(convolution(x).relu()) + skip, "list", 5e-2)
        y.float().sum().backward()
    assert convolution.weight.grad.dtype == x.grad.dtype == norm.weight.grad.dtype == skip.grad.dtype == torch.float32
    double = reals(1, 4, 2, 2, 2)
    with torch.autocast(DEVICE, torch.bfloat16):
        assert ct.ConvTranspose3d(4, 2, 2, dtype=torch.double, device=DEVICE)(double).dtype == torch.double


# ---- modules ---------------------------------------------------------------------------------------------------------

@test
def modules_are_those_of_torch_nn():
    arguments = [dict(kernel_size=3),
                 dict(kernel_size=(1, 2, 3), stride=(1, 2, 2), padding=(0, 1, 1), groups=2, bias=False),
                 dict(kernel_size=3, stride=2, padding=1, output_padding=1, dilation=2, dtype=torch.double)]
    for some in arguments:
        torch.manual_seed(3)
        ours = ct.ConvTranspose3d(4, 6, **some).to(DEVICE)
        torch.manual_seed(3)
        theirs = torch.nn.ConvTranspose3d(4, 6, **some).to(DEVICE)
        assert str(ours) == str(theirs) and list(ours.state_dict()) == list(theirs.state_dict())
        for one, other in zip(ours.parameters(), theirs.parameters()):
            same(one, other, "initialisation")
        x = reals(2, 4, 3, 4, 5, dtype=ours.weight.dtype).detach()
        with torch.no_grad():
            near(ours(x), theirs(x), str(some), 1e-5 if DEVICE == "cpu" else 5e-3)
            if "output_padding" not in some and "groups" not in some:
                size = [n + 2 for n in x.shape[2:]]
                near(ours(x, output_size=size), theirs(x, output_size=size), "output_size", 5e-3)
        theirs.load_state_dict(ours.state_dict())
        clone = copy.deepcopy(ours)
        buffer = io.BytesIO()
        torch.save(clone, buffer)
        buffer.seek(0)
        same(torch.load(buffer, weights_only=False)(x), ours(x), "saved and loaded")
    refuses(lambda: ct.ConvTranspose3d(2, 2, 2, padding_mode="reflect"), ValueError, "zeros")
    up = ct.ConvTranspose3d(2, 2, 3, stride=2).to(DEVICE)
    x = torch.ones(1, 2, 3, 3, 3, device=DEVICE)
    assert up(x, output_size=[8, 7, 8]).shape == (1, 2, 8, 7, 8) == up(x, output_size=(1, 2, 8, 7, 8)).shape
    refuses(lambda: up(x, output_size=[9, 7, 7]), ValueError, "valid sizes")


@test
def replaced_layers_keep_all_they_have():
    model = torch.nn.Sequential(torch.nn.Conv3d(2, 4, 3, padding=1), torch.nn.ConvTranspose3d(4, 6, 2, 2),
                                torch.nn.Sequential(torch.nn.ReLU(), torch.nn.ConvTranspose3d(6, 2, 3, padding=1)))
    model = model.to(DEVICE).eval()
    calls = []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    model[2][1].weight.requires_grad_(False)
    x = reals(1, 2, 4, 4, 4, dtype=torch.float32).detach()
    with torch.no_grad():
        want = model(x)
    parameters, names = list(model.parameters()), [name for name, _ in model.named_modules()]
    assert ct.replace_conv_transpose3d(model) is model
    assert isinstance(model[1], ct.ConvTranspose3d) and isinstance(model[2][1], ct.ConvTranspose3d)
    assert all(a is b for a, b in zip(parameters, model.parameters()))
    assert names == [name for name, _ in model.named_modules()]
    assert not model[1].training and not model[2][1].weight.requires_grad
    near(model(x), want, "y", 1e-5 if DEVICE == "cpu" else 5e-3)
    assert len(calls) == 2
    alone = ct.replace_conv_transpose3d(torch.nn.ConvTranspose3d(1, 1, 1))
    assert type(alone) is ct.ConvTranspose3d


@test
def the_fused_module_is_its_three_parts():
    module = ct.ConvTranspose3dReLUGroupNorm(4, 8, 3, 2, bias=True).to(DEVICE)
    assert list(module.state_dict()) == ["conv_transpose.weight", "conv_transpose.bias", "group_norm.weight",
                                         "group_norm.bias"]
    x = reals(2, 4, 3, 4, 5, dtype=torch.float32)
    torch.nn.init.normal_(module.group_norm.weight)
    parts = copy.deepcopy(module)
    y, want = module(x), parts.group_norm(parts.conv_transpose(x).relu())
    near(y, want, "y", 1e-5)
    dy = torch.randn_like(y)
    wanted = torch.autograd.grad(want, [x, *parts.parameters()], dy)
    for g, r in zip(torch.autograd.grad(y, [x, *module.parameters()], dy), wanted):
        near(g, r, "gradient", 1e-4)
    for half in (torch.float16, torch.bfloat16):
        assert copy.deepcopy(module).to(half)(x.to(half)).dtype == half


@test
def mistakes_are_said_in_words():
    x, w = reals(1, 4, 3, 3, 3), reals(4, 2, 2, 2, 2)
    for call, kind, words in (
            (lambda: ct.conv_transpose3d(x, w, output_padding=1), RuntimeError, "output_padding[0] = 1 must be"),
            (lambda: torch.ops.convt3d.conv_transpose3d_backward(x, x, w, *PLAIN, False, [True] * 3), RuntimeError,
             "dy is [1, 4, 3, 3, 3], not [1, 2, 4, 4, 4]"),
            (lambda: ct.conv_transpose3d(x, w[:3]), RuntimeError, "x has 4 channels"),
            (lambda: ct.conv_transpose3d(x, w, groups=3), RuntimeError, "must divide in_channels"),
            (lambda: ct.conv_transpose3d(x, w.float()), RuntimeError, "but w is torch.float32"),
            (lambda: ct.conv_transpose3d(x.int(), w.int()), RuntimeError, "torch.int32 is none of"),
            (lambda: ct.conv_transpose3d(x, w, w[0, 0, 0]), RuntimeError, "bias is"),
            (lambda: ct.conv_transpose3d(x[0, 0], w), RuntimeError, "5 axes"),
            (lambda: ct.conv_transpose3d(x, w, ops=["softmax"]), ValueError, "none of"),
            (lambda: ct.conv_transpose3d(x, w, ops=[Op("relu", scale=w)]), ValueError, "no scale"),
            (lambda: ct.conv_transpose3d(x, w, ops=[Op("group_norm", groups=3)]), RuntimeError, "ops[0].groups")):
        refuses(call, kind, words)


# ---- on a GPU --------------------------------------------------------------------------------------------------------

def wants_gpu():
    if DEVICE != "cuda":
        raise Skip("no GPU")


@test
def streams_of_their_own():
    wants_gpu()
    warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
    leaves, convolution = data("many channels", torch.float32)
    want = ct.conv_transpose3d(*leaves, *convolution)
    dy = integers(want.shape, torch.float32)
    wanted = torch.autograd.grad(want, leaves, dy)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(4)]
    results = []
    for stream in streams * 3:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(100000)
            y = ct.conv_transpose3d(*leaves, *convolution)
            results.append((y, *torch.autograd.grad(y, leaves, dy)))
    torch.cuda.synchronize()
    for y, *gradients in results:
        for g, r in zip((y, *gradients), (want, *wanted)):
            same(g, r, "stream")


@test
def training_steps_in_a_cuda_graph():
    wants_gpu()
    module = ct.ConvTranspose3dReLUGroupNorm(16, 32, 3, 4, stride=2, padding=1).cuda()
    x = torch.randn(2, 16, 8, 8, 8, device="cuda", requires_grad=True)

    def step():
        x.grad = None
        module.zero_grad(set_to_none=True)
        module(x).square().mean().backward()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    with torch.no_grad():
        x.normal_()
    graph.replay()
    torch.cuda.synchronize()
    got = [t.grad.clone() for t in (x, *module.parameters())]
    step()
    for g, t in zip(got, (x, *module.parameters())):
        same(g, t.grad, "replayed")


@test
def the_two_devices_agree():
    wants_gpu()
    for case in CASES:
        leaves, convolution = data(case, torch.float32)
        same(ct.conv_transpose3d(*leaves, *convolution),
             ct.conv_transpose3d(*(leaf.detach().cpu() for leaf in leaves), *convolution), case)


@test
def cuda_graphs_by_torch_compile():
    wants_gpu()
    module = ct.ConvTranspose3d(16, 16, 2, 2).cuda()
    compiled = torch.compile(module, mode="reduce-overhead", fullgraph=True)
    x = torch.randn(2, 16, 8, 8, 8, device="cuda")
    for _ in range(3):
        same(compiled(x), module(x), "compiled")
        x = torch.randn_like(x)


# ---- the library -----------------------------------------------------------------------------------------------------

@test
def structs_are_those_of_the_header():
    if len(sys.argv) < 3:
        raise Skip("no header and C compiler given")
    header, *compiler = sys.argv[1:]
    pieces = []
    for name, struct in _library.STRUCTS.items():
        pieces.append(f'printf("{name} %zu\\n", sizeof({name}));')
        pieces += [f'printf("{name}.{field} %zu %zu\\n", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));'
                   for field, *_ in struct._fields_]
    pieces += [f'printf("{name} %d\\n", (int)CONVT3D_{name});' for name in
               ("F32", "F64", "F16", "BF16", "NCDHW", "NDHWC", "FORWARD", "BACKWARD_X", "BACKWARD_W", "BACKWARD_BIAS",
                "BACKWARD_OPS", "SAVES_NOTHING", "SAVES_OUTPUT", "SAVES_CONVOLUTION", "USES_RESIDUAL", "USES_SCALE",
                "USES_GROUPS",
                "USES_STATISTICS", "USES_RUNNING", "MAX_OPS")]
    with tempfile.TemporaryDirectory() as folder:
        source, program = os.path.join(folder, "layout.c"), os.path.join(folder, "layout")
        with open(source, "w", encoding="utf-8") as file:
            file.write(f'#include <stdio.h>\n#include "{os.path.abspath(header)}"\nint main(void)\n{{\n'
                       + "\n".join(pieces) + "\nreturn 0;\n}\n")
        subprocess.run([*compiler, source, "-o", program], check=True)
        said = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    expected = []
    for name, struct in _library.STRUCTS.items():
        expected.append(f"{name} {ctypes.sizeof(struct)}")
        expected += [f"{name}.{field} {getattr(struct, field).offset} {getattr(struct, field).size}"
                     for field, *_ in struct._fields_]
    for line, want in itertools.zip_longest(said[:len(expected)], expected):
        assert line == want, f"the header has {line}, _library.py {want}"
    for line in said[len(expected):]:
        name, value = line.split()
        assert getattr(_library, name) == int(value), line


@test
def the_library_is_found_or_asked_for():
    environment = {**os.environ, "PYTHONPATH": HERE, "CONVT3D_LIBRARY": "/nowhere/libconvt3d.so"}
    said = subprocess.run([sys.executable, "-c", "import convt3d_torch"], env=environment, capture_output=True,
                          text=True, check=False)
    assert said.returncode == 1 and "CONVT3D_LIBRARY" in said.stderr and "/nowhere/libconvt3d.so: " in said.stderr, said


@test
def it_installs_without_a_compiler():
    try:
        recent = int(importlib.metadata.version("setuptools").split(".")[0]) > 70
    except importlib.metadata.PackageNotFoundError:
        recent = False
    if not recent or not importlib.util.find_spec("pip"):
        raise Skip("no pip with a setuptools that makes wheels")
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "source"), os.path.join(folder, "target")
        shutil.copytree(HERE, source, ignore=shutil.ignore_patterns("__pycache__"))
        run_python("-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", target,
                   source)
        said = run_python("-c", "import convt3d_torch; print(convt3d_torch.__file__)", PYTHONPATH=target, cwd=folder)
        assert os.path.samefile(os.path.dirname(said.strip()), os.path.join(target, "convt3d_torch")), said


def run_python(*arguments, cwd=None, **environment):
    said = subprocess.run([sys.executable, *arguments], env={**os.environ, **environment}, cwd=cwd, capture_output=True,
                          text=True, check=False)
    assert said.returncode == 0, said.stderr
    return said.stdout


@test
def the_five_modules_run():
    said = run_python(os.path.join(HERE, "five_modules.py"), "--device", DEVICE, "--small")
    rows = said.splitlines()[3:]
    assert len(rows) == 5, said
    for row in rows:
        assert float(row.split()[-1]) < 1e-4, row


@test
def the_denoiser_learns_alike_with_both():
    volume = os.environ.get("CONVT3D_TEST_VOLUME", "/usr/share/mricron/templates/ch2bet.nii.gz")
    if not os.path.exists(volume):
        raise Skip("no mricron-data")
    said = run_python(os.path.join(HERE, "train_denoiser.py"), "--device", DEVICE, "--steps", "6", "--size", "16",
                      "--volume", volume)
    apart = float(said.split("at most")[1].split()[0])
    assert apart < 1, said


def main():
    torch.manual_seed(0)
    if DEVICE == "cpu":
        torch.set_num_threads(min(2, torch.get_num_threads()))
    only = os.environ.get("CONVT3D_TEST_ONLY", "")
    chosen = [function for function in tests if only in function.__name__]
    failed = 0
    for number, function in enumerate(chosen, 1):
        name, begin = function.__name__.replace("_", " "), time.perf_counter()
        try:
            function()
            print(f"ok {number} - {name} ({time.perf_counter() - begin:.1f} s)")
        except Skip as why:
            print(f"ok {number} - {name} # SKIP {why}")
        except Exception:
            failed = 1
            print(f"not ok {number} - {name}")
            print("".join(f"# {line}\n" for line in traceback.format_exc().splitlines()[-25:]), end="")
        sys.stdout.flush()
    print(f"1..{len(chosen)}")
    return failed


sys.exit(main())
