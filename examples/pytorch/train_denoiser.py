"""Trains a small 3-D U-Net to remove noise from crops of a real brain, with torch.nn and with convt3d_torch.

    CONVT3D_LIBRARY=libconvt3d.so python3 train_denoiser.py [--steps 300] [--device cuda|cpu] [--plot FILE.svg]

Both start from the same parameters and see the same crops and noise; the only difference is
convt3d_torch.replace_conv_transpose3d(model). The volume is that of Debian's package mricron-data; --volume names
another NIfTI file of bytes. The plot wants matplotlib.
"""
import argparse
import copy
import gzip
import statistics
import struct
import time

import torch
import torch.nn.functional as F
from torch import nn

import convt3d_torch

VOLUME = "/usr/share/mricron/templates/ch2bet.nii.gz"
NOISE = 0.1                                             # standard deviation; the volume lies between 0 and 1


def read_volume(path):
    """A NIfTI-1 volume of unsigned bytes as float, 0 ... 1, [D, H, W]."""
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
        data = file.read()
    _, width, height, depth = struct.unpack_from("<4h", data, 40)
    datatype, = struct.unpack_from("<h", data, 70)
    offset, = struct.unpack_from("<f", data, 108)
    if datatype != 2:
        raise SystemExit(f"train_denoiser: {path}: NIfTI datatype {datatype}, only bytes (2) are read")
    values = torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=int(offset), count=depth * height * width)
    return values.view(depth, height, width).float() / values.max()


class Crops:
    """Batches [batch, 1, size, size, size] of crops that show some brain, and the same with noise; by seed alone."""

    def __init__(self, volume, size, batch, device):
        self.volume, self.size, self.batch, self.device = volume, size, batch, device

    def crop(self, generator):
        while True:
            at = [int(torch.randint(n - self.size + 1, (), generator=generator)) for n in self.volume.shape]
            crop = self.volume[tuple(slice(begin, begin + self.size) for begin in at)]
            if crop.mean() > 0.1:
                return crop

    def __call__(self, step):
        generator = torch.Generator().manual_seed(step)
        clean = torch.stack([self.crop(generator) for _ in range(self.batch)]).unsqueeze(1)
        noise = NOISE * torch.randn(clean.shape, generator=generator)
        return clean.to(self.device), (clean + noise).to(self.device)


def block(in_channels, out_channels, stride=1):
    return nn.Sequential(nn.Conv3d(in_channels, out_channels, 3, stride, 1), nn.GroupNorm(4, out_channels), nn.SiLU())


class UNet(nn.Module):
    """Two levels down and up; it predicts the noise."""

    def __init__(self, width=16):
        super().__init__()
        self.top, self.down1, self.down2 = block(1, width), block(width, 2 * width, 2), block(2 * width, 4 * width, 2)
        self.up2, self.join2 = nn.ConvTranspose3d(4 * width, 2 * width, 2, 2), block(4 * width, 2 * width)
        self.up1, self.join1 = nn.ConvTranspose3d(2 * width, width, 3, 2, 1, 1), block(2 * width, width)
        self.last = nn.Conv3d(width, 1, 1)

    def forward(self, x):
        top = self.top(x)
        middle = self.down1(top)
        middle = self.join2(torch.cat([self.up2(self.down2(middle)), middle], 1))
        return x - self.last(self.join1(torch.cat([self.up1(middle), top], 1)))


def train(model, crops, steps):
    """Losses, and milliseconds of each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses, times = [], []
    for step in range(steps):
        clean, noisy = crops(step)
        synchronize(crops.device)
        begin = time.perf_counter()
        loss = F.mse_loss(model(noisy), clean)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        synchronize(crops.device)
        times.append(1e3 * (time.perf_counter() - begin))
        losses.append(loss.item())
    return losses, times


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def plot(path, results, caption):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    matplotlib.rcParams["svg.hashsalt"] = "convt3d"
    colors, styles = ("#d07a1e", "#1f5fa8"), ("-", "--")
    figure, (curves, bars) = plt.subplots(1, 2, figsize=(8, 3.2), width_ratios=(3, 1))
    for (name, (losses, _)), color, style in zip(results.items(), colors, styles):
        curves.plot(losses, style, color=color, linewidth=1.2, label=name)
    curves.axhline(NOISE ** 2, color="#555555", linewidth=0.8, linestyle=":", label="noise")
    curves.set_yscale("log")
    curves.set_xlabel("step", fontsize=8)
    curves.set_ylabel("mean squared error", fontsize=8)
    curves.set_title(caption, fontsize=9)
    curves.legend(fontsize=8, frameon=False)
    medians = [statistics.median(times) for _, times in results.values()]
    for bar, median in zip(bars.bar(list(results), medians, color=colors, width=0.6), medians):
        bars.text(bar.get_x() + bar.get_width() / 2, median, f"{median:.3g}", ha="center", va="bottom", fontsize=8)
    bars.set_title("ms per step (median)", fontsize=9)
    for axes in (curves, bars):
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight")
    print(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--volume", default=VOLUME)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--plot")
    arguments = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False             # f32 is f32 on both sides
    crops = Crops(read_volume(arguments.volume), arguments.size, arguments.batch, arguments.device)
    torch.manual_seed(0)
    model = UNet().to(arguments.device)
    ours = convt3d_torch.replace_conv_transpose3d(copy.deepcopy(model))
    results = {}
    for name, some in (("torch.nn", model), ("convt3d", ours)):
        losses, times = results[name] = train(some, crops, arguments.steps)
        last = losses[-max(1, len(losses) // 10):]
        print(f"{name:10} loss {losses[0]:.5f} -> {statistics.mean(last):.5f}, "
              f"{statistics.median(times):.2f} ms per step")
    apart = max(abs(a - b) / a for a, b in zip(*(losses for losses, _ in results.values())))
    print(f"the curves are apart by at most {100 * apart:.3g} % of the loss")
    if arguments.plot:
        where = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
        plot(arguments.plot, results, f"U-Net denoiser, {arguments.batch} crops of {arguments.size}³, f32, {where}")


main()
