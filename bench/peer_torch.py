#!/usr/bin/env python3
"""Times PyTorch's conv_transpose3d over a workload file, on the CPU or the GPU, by the rules of `convt3d bench`.

--pass backward times what autograd calls for its gradients of x, w and, with --bias on, the bias.

CPU: one run to warm up, then at least --repeats runs and 0.3 s, median; with oneDNN on and off.
CUDA: CUDA events around replays of a graph over several x and y that together exceed twice the L2, median; what could
not be captured in a graph says so. cudnn.benchmark is on or off for a whole run: PyTorch keeps the plan that it used
first for a problem, so that switching it on later in the same process would change nothing.
On both, a row that takes longer than --row-seconds stops after three, one beyond half a second a call after one; every
row says how often it ran. No row begins after --seconds. The JSON has the structure of `convt3d bench --json`:
compare.py and plot.py read both.
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

MODES = {"f32": torch.float32, "tf32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16,
         "f64": torch.float64}
CPU_SECONDS = 0.3
MOST_SETS = 192
SLOW_MS = 500.0


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

    def x_shape(self):
        return [self.batch, self.in_channels, *self.size]

    def w_shape(self):
        return [self.in_channels, self.out_channels // self.groups, *self.kernel]

    def out_size(self):
        return [(i - 1) * s - 2 * p + d * (k - 1) + op + 1 for i, s, p, d, k, op in
                zip(self.size, self.stride, self.padding, self.dilation, self.kernel, self.output_padding)]

    def flops(self):
        """2 * products that land inside the output."""
        products = self.batch * self.in_channels * (self.out_channels // self.groups)
        axes = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, self.out_size())
        return 2 * products * math.prod(pairs_inside(*axis) for axis in axes)

    def y_shape(self):
        return [self.batch, self.out_channels, *self.out_size()]

    def xy_bytes(self, element):
        return element * (math.prod(self.x_shape()) + math.prod(self.y_shape()))

    def bytes(self, element):
        return self.xy_bytes(element) + element * math.prod(self.w_shape())

    def backward_bytes(self, element):
        """dy, x and w read, dx and dw written."""
        return self.bytes(element) + element * (math.prod(self.x_shape()) + math.prod(self.w_shape()))

    def scale_down(self, element, scale):
        """As --scale of `convt3d bench`."""
        self.batch = min(self.batch, 1)
        while self.flops() >= 20e9 if scale == "cpu" else self.flops() >= 2e9 or self.bytes(element) >= 100e6:
            smaller = [max(self.size[0] // 2, 1), *self.size[1:]] if scale == "cpu" else \
                [size if size <= 4 else max(4, size // 2) for size in self.size]
            if smaller == self.size:
                return
            self.size = smaller


def make_call(problem, mode, layout, args):
    """The call, of a tuple of tensors, and the function that makes another such tuple: (x,), backward (x, dy)."""
    memory = torch.channels_last_3d if layout == "ndhwc" else torch.contiguous_format

    def random(shape):
        values = torch.rand(shape, dtype=torch.float32, device=args.device).mul_(2).sub_(1).to(MODES[mode])
        return values.contiguous(memory_format=memory) if len(shape) == 5 else values

    w, bias = random(problem.w_shape()), random([problem.out_channels]) if args.bias == "on" else None

    def forward(x):
        return torch.nn.functional.conv_transpose3d(x, w, bias, problem.stride, problem.padding,
                                                    problem.output_padding, problem.groups, problem.dilation)

    def backward(x, dy):
        return torch.ops.aten.convolution_backward(dy, x, w, None if bias is None else [problem.out_channels],
                                                   problem.stride, problem.padding, problem.dilation, True,
                                                   problem.output_padding, problem.groups,
                                                   [True, True, bias is not None])

    if args.passes == "forward":
        return forward, lambda: (random(problem.x_shape()),)
    return backward, lambda: (random(problem.x_shape()), random(problem.y_shape()))


# ---- CPU ----

def time_cpu(call, tensors, args):
    call(*tensors)
    times, begin = [], time.perf_counter()
    while True:
        spent = time.perf_counter() - begin
        enough = len(times) >= args.repeats and spent >= CPU_SECONDS
        if enough or (len(times) >= 3 and spent >= args.row_seconds):
            return {"ms": 1e3 * statistics.median(times), "repeats": len(times)}
        start = time.perf_counter()
        call(*tensors)
        times.append(time.perf_counter() - start)


def measure_cpu(problem, mode, layout, args):
    call, make_set = make_call(problem, mode, layout, args)
    tensors = make_set()
    for mkldnn in {"on": [True], "off": [False], "both": [True, False]}[args.mkldnn]:
        with torch.backends.mkldnn.flags(enabled=mkldnn):
            yield "onednn" if mkldnn else "native", time_cpu(call, tensors, args)


# ---- CUDA ----

def sets_wanted(bytes_of_set):
    """How many x and y exceed twice the L2; at least two."""
    l2 = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20)
    return min(MOST_SETS, int(2 * l2 / bytes_of_set) + 2)


def event_ms(work):
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def time_cuda(call, sets, args):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call(*sets[0])
        once = event_ms(lambda: call(*sets[1 % len(sets)]))
    torch.cuda.synchronize()
    if once > SLOW_MS:
        return {"ms": once, "repeats": 1, "graph": False}
    in_graph = 1 if once > 20 else 4 if once > 2 else max(16, len(sets))
    outputs = []                        # kept, so that every call writes to memory of its own

    def calls():
        outputs.extend(call(*sets[i % len(sets)]) for i in range(in_graph))

    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            calls()
        work = graph.replay
    except RuntimeError:
        torch.cuda.synchronize()
        graph, work, in_graph = None, lambda: call(*sets[0]), 1
    least = 3 if once * in_graph * args.repeats > 1e3 * args.row_seconds else args.repeats
    repeats = max(least, min(args.repeats, int(1e3 * args.row_seconds / (once * in_graph))))
    with torch.cuda.stream(stream):
        work()
        times = [event_ms(work) / in_graph for _ in range(repeats)]
    result = {"ms": statistics.median(times), "repeats": repeats}
    if graph is None:
        result["graph"] = False
    return result


def measure_cuda(problem, mode, layout, args):
    call, make_set = make_call(problem, mode, layout, args)
    element = torch.empty([], dtype=MODES[mode]).element_size()
    sets = [make_set() for _ in range(sets_wanted(problem.xy_bytes(element)))]
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = mode == "tf32"
    torch.backends.cudnn.benchmark = args.benchmark == "on"
    yield "cudnn+benchmark" if args.benchmark == "on" else "cudnn", time_cuda(call, sets, args)


# ---- rows ----

def row_of(problem, mode, layout, kernel, result, args):
    element = torch.empty([], dtype=MODES[mode]).element_size()
    seconds = 1e-3 * result["ms"]
    row = {"name": problem.name, "device": args.device, "kernel": kernel, "dtype": "f32" if mode == "tf32" else mode,
           "layout": layout, "math": "tf32" if mode == "tf32" else "accurate", "pass": args.passes}
    row.update({key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in result.items()})
    flops, moved = problem.flops(), problem.bytes(element)
    if args.passes == "backward":
        flops, moved = 2 * flops, problem.backward_bytes(element)
    row["gflops"] = float(f"{1e-9 * flops / seconds:.6g}")
    row["gbps"] = float(f"{1e-9 * moved / seconds:.6g}")
    return row


def read_problems(args):
    with open(args.workloads, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    problems = [Problem(row) for row in rows]
    return [problem for problem in problems if not args.only or problem.name in args.only.split(",")]


def measure_all(args, begin):
    """Modes in the order asked for, each in every layout; PyTorch's own errors leave a row out."""
    measure = measure_cuda if args.device == "cuda" else measure_cpu
    results = []
    for mode, layout in ((m, l) for l in args.layout.split(",") for m in args.mode.split(",")):
        for problem in read_problems(args):
            if args.batch is not None:
                problem.batch = args.batch
            if args.scale != "full":
                problem.scale_down(torch.empty([], dtype=MODES[mode]).element_size(), args.scale)
            if time.perf_counter() - begin > args.seconds:
                print(f"{problem.name} {mode} {layout}: left out, {args.seconds:.0f} s are over", file=sys.stderr)
                continue
            try:
                for kernel, result in measure(problem, mode, layout, args):
                    results.append(row_of(problem, mode, layout, kernel, result, args))
                    print(f"{time.perf_counter() - begin:5.0f} s  {problem.name:24} {mode:4} {layout} {kernel:15} "
                          f"{result['ms']:10.4f} ms  x{result['repeats']}", flush=True)
            except RuntimeError as error:
                print(f"{problem.name} {mode} {layout}: {str(error).splitlines()[0]}", file=sys.stderr)
            if args.device == "cuda":
                torch.cuda.empty_cache()
    return results


def machine_name(args):
    if args.device == "cuda":
        return torch.cuda.get_device_name(0)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown"


def write_json(path, results, args):
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    meta = {"library": "pytorch", "version": torch.__version__, "threads": torch.get_num_threads(),
            "machine": machine_name(args), "date": date, "bias": args.bias}
    if args.device == "cuda":
        meta["cuda"], meta["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    rows = ",\n".join("  " + json.dumps(row) for row in results)
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(f'{{"meta": {json.dumps(meta)},\n "ceilings": {{}},\n "results": [\n{rows}\n]}}\n')
    os.replace(temporary, path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", help="CSV such as bench/workloads.csv")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--pass", dest="passes", choices=["forward", "backward"], default="forward")
    parser.add_argument("--mode", default="f32", help=f"list of {', '.join(MODES)}; default f32")
    parser.add_argument("--layout", default="ncdhw", help="list of ncdhw, ndhwc; default ncdhw")
    parser.add_argument("--mkldnn", choices=["on", "off", "both"], default="on", help="oneDNN on the CPU; default on")
    parser.add_argument("--benchmark", choices=["on", "off"], default="on", help="cudnn.benchmark; default on")
    parser.add_argument("--bias", choices=["on", "off"], default="on", help="default on, as in convt3d bench")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch", type=int, help="in place of the batch of every row")
    parser.add_argument("--scale", choices=["full", "small", "cpu"], default="full", help="as of convt3d bench")
    parser.add_argument("--repeats", type=int, help="default 5, on CUDA 11")
    parser.add_argument("--row-seconds", type=float, help="default 30, on CUDA 1")
    parser.add_argument("--seconds", type=float, default=math.inf, help="no row begins after this")
    parser.add_argument("--only", help="names of rows, joined by commas")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    if any(mode not in MODES for mode in args.mode.split(",")):
        parser.error(f"--mode {args.mode}: a list of {', '.join(MODES)} is wanted")
    if any(layout not in ("ncdhw", "ndhwc") for layout in args.layout.split(",")):
        parser.error(f"--layout {args.layout}: a list of ncdhw, ndhwc is wanted")
    cuda = args.device == "cuda"
    args.repeats = args.repeats or (11 if cuda else 5)
    args.row_seconds = args.row_seconds or (1.0 if cuda else 30.0)
    return args


def main():
    begin = time.perf_counter()
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with torch.no_grad():
        results = measure_all(args, begin)
    if args.json:
        write_json(args.json, results, args)


if __name__ == "__main__":
    main()
