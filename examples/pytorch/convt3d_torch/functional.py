"""conv_transpose3d() for people, on top of the operators of _ops.py."""
from typing import NamedTuple, Optional

import torch

from . import _library as c
from . import _ops

OPS = tuple(c.ENTRIES)


class settings:
    """allow_tf32: whether f32 may be computed by the TF32 units of the GPU, as torch.backends.cudnn.allow_tf32 says
    for PyTorch's convolutions. Off by default: f32 is f32. What it is in forward holds for the backward of the call."""
    allow_tf32 = False


class Op(NamedTuple):
    """One entry of what follows the convolution. kind is a name of OPS, which stands alone for an entry that needs
    nothing else; convt3d.h, WHAT FOLLOWS THE CONVOLUTION, has the meaning of every kind and field.

        Op("leaky_relu", a=0.01), Op("clamp", a=0., b=6.), Op("add", residual=skip)
        Op("group_norm", groups=8, a=1e-5, scale=gamma, shift=beta)
        Op("batch_norm", a=1e-5, b=0.1, scale=gamma, shift=beta, running_mean=mean, running_var=var)

    residual: broadcast to y's shape. scale, shift, running_mean, running_var: [out_channels]; the running ones are
    updated in place."""
    kind: str
    a: float = 0.0
    b: float = 0.0
    groups: int = 0
    residual: Optional[torch.Tensor] = None
    scale: Optional[torch.Tensor] = None
    shift: Optional[torch.Tensor] = None
    running_mean: Optional[torch.Tensor] = None
    running_var: Optional[torch.Tensor] = None


def triple(value):
    if isinstance(value, (list, tuple, torch.Size)):
        return list(value) * 3 if len(value) == 1 else list(value)
    return [value] * 3


def conv_transpose3d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1, ops=()):
    """torch.nn.functional.conv_transpose3d, and `ops`, a list of Op or names, applied before the one rounding.

    input   [batch, in_channels, D, H, W] or [in_channels, D, H, W]; any strides; float32, 64, 16 or bfloat16
    weight  [in_channels, out_channels/groups, kD, kH, kW]
    bias    [out_channels] or None
    Numbers stand for all three axes. padding may be negative. The result has the input's type and, where the input or
    the weight is channels_last_3d, that memory format.
    """
    if input.dim() == 4:
        ops = [Op(op) if isinstance(op, str) else op for op in ops]
        ops = [op if op.residual is None or op.residual.dim() < 4 else op._replace(residual=op.residual.unsqueeze(0))
               for op in ops]
        return conv_transpose3d(input.unsqueeze(0), weight, bias, stride, padding, output_padding, groups, dilation,
                                ops).squeeze(0)
    convolution = (triple(stride), triple(padding), triple(output_padding), groups, triple(dilation),
                   settings.allow_tf32)
    if not ops:
        return torch.ops.convt3d.conv_transpose3d(input, weight, bias, *convolution)
    return _fused(input, weight, bias, convolution, [Op(op) if isinstance(op, str) else op for op in ops])


def _fused(x, w, bias, convolution, ops):
    shape = _ops.out_shape(x, w, *convolution)
    entries, tensors = [], []
    for op in ops:
        its = _tensors_of(op, shape, _ops.wide(x))
        entries.append(_ops.Entry(op.kind, op.groups, float(op.a), float(op.b), tuple(its)))
        tensors += its.values()
    y, _, statistics = torch.ops.convt3d.fused(
        x, w, bias, *convolution, _ops.text_of(entries), [entry.groups for entry in entries],
        [number for entry in entries for number in (entry.a, entry.b)], tensors, _wanted(x, w, bias, tensors))
    with torch.no_grad():
        for op, place in zip(ops, _ops.statistics_of(entries, shape[0], shape[1])[0]):
            for name in ("running_mean", "running_var"):
                if name in place:
                    getattr(op, name).copy_(statistics[place[name]])
    return y


def _tensors_of(op, shape, wide):
    """{name: tensor} as the operator takes them: residuals of y's shape, the others in the wide type."""
    if op.kind not in c.ENTRIES:
        raise ValueError(f"{op.kind!r} is none of {', '.join(OPS)}")
    its = {name: getattr(op, name) for name in _ops.OP_TENSORS if getattr(op, name) is not None}
    for name, tensor in its.items():
        if not c.ENTRIES[op.kind][1] & _ops.OP_TENSORS[name]:
            raise ValueError(f"{op.kind} has no {name}")
        if name == "residual":
            its[name] = tensor.expand(shape)
        elif list(tensor.shape) == shape[1:2]:
            its[name] = tensor.to(wide)
        else:
            raise ValueError(f"{name} of {op.kind} is {list(tensor.shape)}, not {shape[1:2]}")
    return its


def _wanted(x, w, bias, tensors):
    """The gradients that a backward pass may come to ask for."""
    if not torch.is_grad_enabled():
        return c.FORWARD
    return (c.BACKWARD_X * x.requires_grad | c.BACKWARD_W * w.requires_grad
            | c.BACKWARD_BIAS * (bias is not None and bias.requires_grad)
            | c.BACKWARD_OPS * any([tensor.requires_grad for tensor in tensors]))
