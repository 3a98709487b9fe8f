"""Five PyTorch modules, each with torch.nn.ConvTranspose3d and with convt3d: time, and error against double.

    CONVT3D_LIBRARY=libconvt3d.so python3 five_modules.py [--device cuda|cpu] [--small] [--tf32]

--small takes one sample of an eighth of the volume, for a CPU. Without --tf32 neither side may use it. Both modules
have the same parameters: ours loads the state_dict of the original.
"""
import argparse
import statistics
import time

import torch
from torch import nn

import convt3d_torch


class Square(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, output_padding=0, groups=1,
                 bias=False, layer=convt3d_torch.ConvTranspose3d):
        super().__init__()
        self.conv_transpose3d = layer(in_channels, out_channels, kernel_size, stride=stride, padding=padding,
                                      output_padding=output_padding, groups=groups, bias=bias)

    def forward(self, x):
        return self.conv_transpose3d(x)


class SquareDilated(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, output_padding=0, groups=1,
                 bias=False, dilation=1, layer=convt3d_torch.ConvTranspose3d):
        super().__init__()
        self.conv_transpose3d = layer(in_channels, out_channels, kernel_size, stride=stride, padding=padding,
                                      output_padding=output_padding, groups=groups, bias=bias, dilation=dilation)

    def forward(self, x):
        return self.conv_transpose3d(x)


class StridedGrouped(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, groups=1, bias=False,
                 layer=convt3d_torch.ConvTranspose3d):
        super().__init__()
        self.conv_transpose3d = layer(in_channels, out_channels, kernel_size, stride=stride, padding=padding,
                                      groups=groups, bias=bias)

    def forward(self, x):
        return self.conv_transpose3d(x)


class StridedDilated(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, bias=False,
                 layer=convt3d_torch.ConvTranspose3d):
        super().__init__()
        self.conv_transpose3d = layer(in_channels, out_channels, kernel_size, stride=stride, padding=padding,
                                      dilation=dilation, bias=bias)

    def forward(self, x):
        return self.conv_transpose3d(x)


class ReLUGroupNorm(nn.Module):
    """The original of convt3d_torch.ConvTranspose3dReLUGroupNorm, which does the same in one call."""

    def __init__(self, in_channels, out_channels, kernel_size, groups, bias=False):
        super().__init__()
        self.conv_transpose = nn.ConvTranspose3d(in_channels, out_channels, kernel_size, bias=bias)
        self.relu = nn.ReLU()
        self.group_norm = nn.GroupNorm(num_groups=groups, num_channels=out_channels)

    def forward(self, x):
        return self.group_norm(self.relu(self.conv_transpose(x)))


# name: (batch and channels, size), original, ours
MODULES = {
    "square": ((8, 48, 64, 64, 64), lambda layer: Square(48, 48, 3, layer=layer)),
    "square, dilation 2": ((8, 48, 64, 64, 64), lambda layer: SquareDilated(48, 48, 3, dilation=2, layer=layer)),
    "stride 2, 4 groups": ((4, 32, 32, 64, 128), lambda layer: StridedGrouped(32, 32, 3, 2, 1, 4, layer=layer)),
    "stride 2, dilation 2": ((16, 32, 16, 32, 32), lambda layer: StridedDilated(32, 64, 3, 2, 1, 2, layer=layer)),
    "ReLU, GroupNorm": ((16, 64, 32, 32, 32), lambda layer: ReLUGroupNorm(64, 128, 3, 8) if layer is nn.ConvTranspose3d
                        else convt3d_torch.ConvTranspose3dReLUGroupNorm(64, 128, 3, 8)),
}


def median_ms(call, device):
    """Median of ten calls, after three."""
    def once():
        if device == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            call()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end)
        begin = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - begin)

    few = device == "cpu"
    for _ in range(1 if few else 3):
        once()
    return statistics.median(once() for _ in range(3 if few else 10))


def times(module, x):
    """Milliseconds of forward alone, and of forward and backward."""
    def forward():
        with torch.no_grad():
            module(x)

    dy = torch.ones_like(module(x))

    def both():
        module.zero_grad(set_to_none=True)
        x.grad = None
        module(x).backward(dy)
    return median_ms(forward, x.device.type), median_ms(both, x.device.type)


def error(module, original, x):
    """Largest difference of y from the original in double, over the largest |y|; of one sample."""
    with torch.no_grad():
        want = original.double()(x[:1].double())
        original.float()
        return ((module(x[:1]) - want).abs().max() / want.abs().max()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--tf32", action="store_true")
    arguments = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = arguments.tf32
    convt3d_torch.settings.allow_tf32 = arguments.tf32
    print(f"{torch.cuda.get_device_name() if arguments.device == 'cuda' else 'CPU'}, PyTorch {torch.__version__}, "
          f"f32{', TF32 allowed' if arguments.tf32 else ''}")
    print(f"{'module':22} {'forward ms':>20} {'with backward ms':>20} {'largest error':>20}")
    print(" " * 23 + "  torch.nn   convt3d" * 3)
    for name, (shape, build) in MODULES.items():
        torch.manual_seed(0)
        if arguments.small:
            shape = (1, shape[1], *(size // 2 for size in shape[2:]))
        original = build(nn.ConvTranspose3d).to(arguments.device)
        ours = build(convt3d_torch.ConvTranspose3d).to(arguments.device)
        ours.load_state_dict(original.state_dict())
        x = torch.randn(shape, device=arguments.device, requires_grad=True)
        (forward, both), (our_forward, our_both) = times(original, x), times(ours, x)
        errors = error(original, original, x), error(ours, original, x)
        print(f"{name:22} {forward:10.3f}{our_forward:10.3f} {both:9.3f}{our_both:10.3f} "
              f"{errors[0]:10.1e}{errors[1]:10.1e}", flush=True)


main()
