"""Modules with the constructors, parameters and initialisation of PyTorch's."""
import torch

from .functional import Op, conv_transpose3d


class ConvTranspose3d(torch.nn.ConvTranspose3d):
    """torch.nn.ConvTranspose3d, computed by convt3d: same constructor, state_dict, initialisation and forward."""

    def forward(self, input, output_size=None):
        """[batch, in_channels, D, H, W] or without batch; output_size: 3 or all sizes, as in torch.nn."""
        return self.convolve(input, output_size)

    def convolve(self, input, output_size=None, ops=()):
        """forward, followed by a list of functional.Op."""
        if self.padding_mode != "zeros":
            raise ValueError("Only `zeros` padding mode is supported for ConvTranspose3d")
        output_padding = self._output_padding(input, output_size, self.stride, self.padding, self.kernel_size, 3,
                                              self.dilation)
        return conv_transpose3d(input, self.weight, self.bias, self.stride, self.padding, output_padding, self.groups,
                                self.dilation, ops)


class ConvTranspose3dReLUGroupNorm(torch.nn.Module):
    """Transposed convolution, ReLU and GroupNorm in one call. `groups` are those of the norm, as in the module it
    stands for; the convolution takes what else torch.nn.ConvTranspose3d takes as keywords.

    state_dict: conv_transpose.weight, conv_transpose.bias (with bias=True), group_norm.weight, group_norm.bias
    """

    def __init__(self, in_channels, out_channels, kernel_size, groups, bias=False, eps=1e-5, affine=True, device=None,
                 dtype=None, **convolution):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.conv_transpose = ConvTranspose3d(in_channels, out_channels, kernel_size, bias=bias, **convolution, **where)
        self.group_norm = torch.nn.GroupNorm(groups, out_channels, eps=eps, affine=affine, **where)

    def forward(self, input, output_size=None):
        norm = self.group_norm
        return self.conv_transpose.convolve(input, output_size, [
            Op("relu"), Op("group_norm", groups=norm.num_groups, a=norm.eps, scale=norm.weight, shift=norm.bias)])


def replace_conv_transpose3d(model):
    """Lets convt3d compute every torch.nn.ConvTranspose3d of a model, in place, and returns the model.

    The modules stay the same objects: parameters (and so optimisers), names, hooks, devices, types, training flags and
    state_dict are untouched. Modules of a class derived from torch.nn.ConvTranspose3d are left as they are, since their
    forward may be their own.
    """
    for module in model.modules():
        if type(module) is torch.nn.ConvTranspose3d:
            module.__class__ = ConvTranspose3d
    return model
