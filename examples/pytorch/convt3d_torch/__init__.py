"""convt3d for PyTorch: 3-D transposed convolution with the signatures of torch.nn, on the CPU and on NVIDIA GPUs.

    y = convt3d_torch.conv_transpose3d(x, weight, bias, stride=2, ops=["relu"])
    convt3d_torch.replace_conv_transpose3d(model)

It finds the shared library beside this file, by the variable CONVT3D_LIBRARY, or where the system keeps libraries.
Results are the same bits on every run; convt3d.h, NUMERIC CONTRACT, has the bound that they keep.
"""
from .functional import OPS, Op, conv_transpose3d, settings
from .modules import ConvTranspose3d, ConvTranspose3dReLUGroupNorm, replace_conv_transpose3d

__version__ = "0.1.0"
__all__ = ["ConvTranspose3d", "ConvTranspose3dReLUGroupNorm", "OPS", "Op", "conv_transpose3d",
           "replace_conv_transpose3d", "settings"]
