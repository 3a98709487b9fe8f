#!/usr/bin/env python3
"""Times the blocks of bench/blocks.csv in PyTorch on a GPU, eager and compiled, by the rules of peer_torch.py.

A block is the transposed convolution (without bias where a BatchNorm follows) and what its column `then` says, written
as a network has it: BatchNorm in inference for channel_affine, instance_norm for as many groups as channels, torch.cat
with the skip connection where y_channels says that the output lies in the buffer of a concatenation. `compiled` is
torch.compile with its defaults, static shapes. The JSON has the structure of `convt3d bench --json`; with --ours FILES
the table of both is printed.
"""
import argparse
import csv
import json
import math
import os
import sys
import time

import torch
import torch.nn.functional as F

import peer_torch

FUNCTIONS = {"relu": F.relu, "relu6": F.relu6, "silu": F.silu, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
             "gelu": F.gelu, "hardswish": F.hardswish, "mish": F.mish}


def entries(text):
    """[(name, [numbers])] of a list as `--then` has it."""
    return [(entry.split(":")[0], [float(n) for n in entry.split(":")[1:]]) for entry in text.split(",") if entry]


class Block(peer_torch.Problem):
    def __init__(self, row):
        super().__init__(row)
        self.then, self.y_channels = row["then"], int(row["y_channels"])

    def y_shape(self):
        return [self.batch, self.out_channels, *self.out_size()]


def make_block(block, dtype):
    """x to the block's output, and the function that makes another x."""
    def random(shape):
        return torch.rand(shape, dtype=torch.float32, device="cuda").mul_(2).sub_(1).to(dtype)

    channels, steps = block.out_channels, entries(block.then)
    w, bias = random(block.w_shape()), random([channels])
    if steps and steps[0][0] == "channel_affine":
        bias = None                     # BatchNorm has it
    skip = random([block.batch, block.y_channels - channels, *block.out_size()]) if block.y_channels else None
    residual = random(block.y_shape()) if any(name == "add" for name, _ in steps) else None
    scale, shift, mean = random([channels]), random([channels]), random([channels])
    variance = random([channels]).abs() + 0.5

    def call(x):
        y = F.conv_transpose3d(x, w, bias, block.stride, block.padding, block.output_padding, block.groups,
                               block.dilation)
        for name, numbers in steps:
            if name == "channel_affine":
                y = F.batch_norm(y, mean, variance, scale, shift, training=False)
            elif name == "add":
                y = y + residual
            elif name == "leaky_relu":
                y = F.leaky_relu(y, numbers[0] if numbers else 0.01)
            elif name == "group_norm":
                groups = int(numbers[0])
                y = F.instance_norm(y, weight=scale, bias=shift) if groups == channels else \
                    F.group_norm(y, groups, scale, shift)
            else:
                y = FUNCTIONS[name](y)
        return y if skip is None else torch.cat((y, skip), 1)

    return call, lambda: random(block.x_shape())


def measure(block, mode, args):
    """(how, result) of the block in eager and compiled form."""
    dtype = peer_torch.MODES[mode]
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = mode == "tf32"
    call, make_x = make_block(block, dtype)
    element = torch.empty([], dtype=dtype).element_size()
    sets = [(make_x(),) for _ in range(peer_torch.sets_wanted(block.xy_bytes(element)))]
    yield "eager", peer_torch.time_cuda(call, sets, args)
    torch._dynamo.reset()
    yield "compiled", peer_torch.time_cuda(torch.compile(call, dynamic=False), sets, args)


def measure_all(blocks, args, begin):
    results = []
    for mode in args.mode.split(","):
        for block in blocks:
            if time.perf_counter() - begin > args.seconds:
                print(f"{block.name} {mode}: left out, {args.seconds:.0f} s are over", file=sys.stderr)
                continue
            try:
                for how, result in measure(block, mode, args):
                    results.append({"name": block.name, "device": "cuda", "kernel": how,
                                    "dtype": "f32" if mode == "tf32" else mode, "layout": "ncdhw",
                                    "math": "tf32" if mode == "tf32" else "accurate", "pass": "forward",
                                    "then": block.then, **result})
                    print(f"{time.perf_counter() - begin:5.0f} s  {block.name:20} {mode:4} {how:9} "
                          f"{result['ms']:9.4f} ms", flush=True)
            except RuntimeError as error:
                print(f"{block.name} {mode}: {str(error).splitlines()[0]}", file=sys.stderr)
            torch.cuda.empty_cache()
    return results


def mode_of(row):
    return "tf32" if row["math"] == "tf32" else row["dtype"]


def print_table(files, peers, path):
    """Ours beside eager and compiled, block by block."""
    ours = [row for name in files for row in json.load(open(name, encoding="utf-8"))["results"]]
    times = {(row["name"], mode_of(row), row["kernel"]): row["ms"] for row in peers}
    lines = ["| block | then | mode | kernel | ours ms | eager ms | compiled ms | to eager | to compiled |",
             "|---|---|---|---|---|---|---|---|---|"]
    ratios = {"eager": [], "compiled": []}
    for row in ours:
        peer = [times.get((row["name"], mode_of(row), how)) for how in ratios]
        for how, ms in zip(ratios, peer):
            ratios[how] += [ms / row["ms"]] if ms else []
        cells = [f"{ms:.4f}" if ms else "" for ms in peer] + [f"{ms / row['ms']:.2f}" if ms else "" for ms in peer]
        lines.append(f"| {row['name']} | {row.get('then', '')} | {mode_of(row)} | {row['kernel']} | {row['ms']:.4f} | " +
                     " | ".join(cells) + " |")
    for how, found in ratios.items():
        if found:
            mean = math.exp(sum(map(math.log, found)) / len(found))
            lines.append(f"\n{how}: {len(found)} rows, geometric mean {mean:.2f}, least {min(found):.2f}")
    print("\n".join(lines))
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def main():
    begin = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("blocks", help="CSV such as bench/blocks.csv")
    parser.add_argument("--mode", default="f32,tf32", help="list of f32, tf32, f16, bf16; default f32,tf32")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--row-seconds", type=float, default=0.4)
    parser.add_argument("--seconds", type=float, default=math.inf, help="no row begins after this")
    parser.add_argument("--ours", nargs="*", default=[], metavar="FILE", help="results of `convt3d bench --json`")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--table", metavar="FILE")
    args = parser.parse_args()
    args.device, args.bias = "cuda", "on"
    with open(args.blocks, encoding="utf-8", newline="") as file:
        blocks = [Block(row) for row in csv.DictReader(file)]
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    with torch.no_grad():
        results = measure_all(blocks, args, begin)
    if args.json:
        peer_torch.write_json(args.json, results, args)
    if args.ours:
        print_table(args.ours, results, args.table)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main()
