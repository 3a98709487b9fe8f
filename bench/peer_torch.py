#!/usr/bin/env python3
"""Times PyTorch's conv_transpose3d on the CPU over a workload file, by the rules of `convt3d bench`.

One run to warm up, then at least --repeats runs and 0.3 s, median; a row that takes longer than --row-seconds stops
after three. The JSON has the structure of `convt3d bench --json`, so that compare.py can set the two side by side.
"""
import argparse
import csv
import datetime
import json
import math
import os
import statistics
import sys
import time

import torch

DTYPES = {"f32": torch.float32, "f64": torch.float64, "f16": torch.float16, "bf16": torch.bfloat16}
ROW_SECONDS = 0.3


def triple(row, key):
    return [int(row[f"{key}_{axis}"]) for axis in "dhw"]


def pairs_inside(size, kernel, stride, padding, dilation, out):
    """Pairs of input index and tap whose target lies inside the output, on one axis."""
    return sum(0 <= i * stride - padding + k * dilation < out for i in range(size) for k in range(kernel))


class Problem:
    def __init__(self, row):
        self.name = row["name"]
        self.batch, self.groups = int(row["batch"]), int(row["groups"])
        self.in_channels, self.out_channels = int(row["in_channels"]), int(row["out_channels"])
        self.size, self.kernel, self.stride = triple(row, "in"), triple(row, "k"), triple(row, "s")
        self.padding, self.output_padding, self.dilation = triple(row, "p"), triple(row, "op"), triple(row, "d")

    def out_size(self):
        return [(i - 1) * s - 2 * p + d * (k - 1) + op + 1 for i, s, p, d, k, op in
                zip(self.size, self.stride, self.padding, self.dilation, self.kernel, self.output_padding)]

    def flops(self):
        """2 * products that land inside the output."""
        products = self.batch * self.in_channels * (self.out_channels // self.groups)
        axes = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, self.out_size())
        return 2 * products * math.prod(pairs_inside(*axis) for axis in axes)

    def bytes(self, element):
        x = self.batch * self.in_channels * math.prod(self.size)
        w = self.in_channels * (self.out_channels // self.groups) * math.prod(self.kernel)
        y = self.batch * self.out_channels * math.prod(self.out_size())
        return element * (x + w + y)

    def scale_down(self, element):
        self.batch = min(self.batch, 1)
        while self.flops() >= 2e9 or self.bytes(element) >= 100e6:
            smaller = [size if size <= 4 else max(4, size // 2) for size in self.size]
            if smaller == self.size:
                return
            self.size = smaller


def run_times(call, repeats, row_seconds):
    call()
    times, begin = [], time.perf_counter()
    while True:
        spent = time.perf_counter() - begin
        enough = len(times) >= repeats and spent >= ROW_SECONDS
        if enough or (len(times) >= 3 and spent >= row_seconds):
            return times
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)


def time_problem(problem, args):
    dtype = DTYPES[args.dtype]
    memory = torch.channels_last_3d if args.layout == "ndhwc" else torch.contiguous_format

    def random(shape):
        return torch.rand(shape, dtype=torch.float32).mul_(2).sub_(1).to(dtype)

    x = random([problem.batch, problem.in_channels, *problem.size]).contiguous(memory_format=memory)
    w = random([problem.in_channels, problem.out_channels // problem.groups, *problem.kernel])
    bias = random([problem.out_channels])

    def call():
        return torch.nn.functional.conv_transpose3d(
            x, w, bias, problem.stride, problem.padding, problem.output_padding, problem.groups, problem.dilation)

    with torch.no_grad():
        return run_times(call, args.repeats, args.row_seconds)


def result_of(problem, times, args):
    element = torch.empty([], dtype=DTYPES[args.dtype]).element_size()
    seconds = statistics.median(times)
    return {"name": problem.name, "device": "cpu", "kernel": "onednn" if args.mkldnn == "on" else "native",
            "dtype": args.dtype, "layout": args.layout, "math": "accurate", "pass": "forward", "ms": 1e3 * seconds,
            "repeats": len(times), "gflops": 1e-9 * problem.flops() / seconds,
            "gbps": 1e-9 * problem.bytes(element) / seconds}


def machine_name():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown"


def write_json(path, results):
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    meta = {"library": "pytorch", "version": torch.__version__, "threads": torch.get_num_threads(),
            "machine": machine_name(), "date": date}
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"meta": meta, "ceilings": {}, "results": results}, file, indent=1)
        file.write("\n")
    os.replace(temporary, path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", help="CSV such as bench/workloads.csv")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--layout", choices=["ncdhw", "ndhwc"], default="ncdhw")
    parser.add_argument("--mkldnn", choices=["on", "off"], default="on", help="oneDNN; default on")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch", type=int, help="in place of the batch of every row")
    parser.add_argument("--scale", choices=["full", "small"], default="full")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--row-seconds", type=float, default=30.0)
    parser.add_argument("--only", help="names of rows, joined by commas")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


def main():
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with open(args.workloads, encoding="utf-8", newline="") as file:
        problems = [Problem(row) for row in csv.DictReader(file)]
    if args.only:
        problems = [problem for problem in problems if problem.name in args.only.split(",")]
    results = []
    for problem in problems:
        if args.batch is not None:
            problem.batch = args.batch
        if args.scale == "small":
            problem.scale_down(torch.empty([], dtype=DTYPES[args.dtype]).element_size())
        with torch.backends.mkldnn.flags(enabled=args.mkldnn == "on"):
            try:
                times = time_problem(problem, args)
            except RuntimeError as error:
                print(f"{problem.name}: {str(error).splitlines()[0]}", file=sys.stderr)
                continue
        results.append(result_of(problem, times, args))
        last = results[-1]
        print(f"{last['name']:24} {last['kernel']:7} {last['dtype']:5} {last['ms']:10.3f} ms "
              f"{last['gflops']:9.2f} GFLOP/s {last['gbps']:8.2f} GB/s", flush=True)
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    main()
