"""The shared library: where it is found, its structs as ctypes sees them, and plans.

This file knows C and no PyTorch. test_layout.py holds its structs against convt3d.h, field by field; when the library
is loaded, its version and the length of convt3d_desc are checked again, since it may be another build.
"""
import ctypes
import functools
import os
import pathlib
from ctypes import c_char, c_char_p, c_double, c_int32, c_int64, c_uint64, c_void_p
from typing import NamedTuple

VERSION = b"0.1.0"
MAX_OPS = 8
F32, F64, F16, BF16 = range(4)
NCDHW, NDHWC = range(2)
CPU, CUDA = range(2)
FORWARD, BACKWARD_X, BACKWARD_W, BACKWARD_BIAS, BACKWARD_OPS = 0, 1, 2, 4, 8
SAVES_NOTHING, SAVES_OUTPUT, SAVES_CONVOLUTION = range(3)
USES_RESIDUAL, USES_SCALE, USES_GROUPS, USES_STATISTICS, USES_RUNNING = 4, 8, 16, 32, 64


class Error(ctypes.Structure):
    _fields_ = [("status", c_int32), ("field", c_char_p), ("axis", c_int32), ("got", c_int64), ("limit", c_int64),
                ("text", c_char * 192)]


class Op(ctypes.Structure):
    _fields_ = [("kind", c_int32), ("groups", c_int32), ("a", c_double), ("b", c_double), ("stride", c_int64 * 5)]


class Desc(ctypes.Structure):
    _fields_ = [*((name, c_int64) for name in ("batch", "in_channels", "out_channels", "groups")),
                *((name, c_int64 * 3) for name in ("in_size", "kernel", "stride", "padding", "output_padding",
                                                   "dilation", "out_size")),
                *((name, c_int32) for name in ("fixed_out_size", "dtype", "layout", "device", "math", "threads")),
                *((name, c_int64 * 5) for name in ("x_stride", "y_stride", "dy_stride", "dx_stride")),
                ("ops", Op * MAX_OPS), ("workspace_limit", c_int64), ("alignment", c_int64),
                ("accumulate", c_int32), ("backward", c_int32), ("cuda_arch", c_int32), ("force", c_char * 32),
                ("reserved", c_int32 * 15)]


class Plan(ctypes.Structure):
    _fields_ = [("opaque", c_uint64 * 384)]


class OpIO(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in ("residual", "scale", "shift", "mean", "rstd", "running_mean",
                                              "running_var", "d_residual", "d_scale", "d_shift")]


class IO(ctypes.Structure):
    _fields_ = [*((name, c_void_p) for name in ("x", "w", "bias", "y", "saved", "dy", "dx", "dw", "dbias")),
                ("ops", OpIO * MAX_OPS), ("w_packed", c_void_p), ("pack_tag", c_uint64), ("workspace", c_void_p),
                ("workspace_bytes", c_int64), ("stream", c_void_p), ("alloc_context", c_void_p)]


class Info(ctypes.Structure):
    _fields_ = [("kernel", c_char * 32), ("weight_kernel", c_char * 32), ("out_size", c_int64 * 3),
                ("workspace_bytes", c_int64), ("packed_bytes", c_int64), ("flops", c_double), ("bytes", c_double),
                ("saves", c_int32), ("exact_slabs", c_int32)]


STRUCTS = {"convt3d_error": Error, "convt3d_op": Op, "convt3d_desc": Desc, "convt3d_plan": Plan,
           "convt3d_op_io": OpIO, "convt3d_io": IO, "convt3d_info": Info}


# ---- loading ---------------------------------------------------------------------------------------------------------

FILE_NAMES = ("libconvt3d.so", "libconvt3d.so.0", "libconvt3d.dylib", "libconvt3d.0.dylib", "convt3d.dll",
              "convt3d-0.dll", "libconvt3d-0.dll")


def _places():
    """Where it is looked for: CONVT3D_LIBRARY alone where that is set; else beside this file, then the system."""
    if os.environ.get("CONVT3D_LIBRARY"):
        return [os.environ["CONVT3D_LIBRARY"]]
    here = pathlib.Path(__file__).parent
    return [*(str(here / name) for name in FILE_NAMES if (here / name).exists()), *FILE_NAMES]


def _declare(library):
    """Return types and arguments of the functions that are called."""
    pointer, error = ctypes.POINTER, ctypes.POINTER(Error)
    for name, result, *arguments in (
            ("version", c_char_p), ("op_name", c_char_p, c_int32), ("op_uses", c_int32, c_int32),
            ("status_string", c_char_p, c_int32),
            ("plan_init", c_int32, pointer(Plan), pointer(Desc), c_int32, error),
            ("plan_info", c_int32, pointer(Plan), pointer(Info), error),
            ("run", c_int32, pointer(Plan), pointer(IO), error)):
        function = getattr(library, "convt3d_" + name)
        function.restype, function.argtypes = result, arguments
    return library


def _complaint(library):
    """Why the library cannot be used with these structs, or None."""
    version = library.convt3d_version()
    if version != VERSION:
        return f"it is version {version.decode()}, this package is for {VERSION.decode()}"
    last = len(Desc().reserved) - 1                     # in its place only for a library with our convt3d_desc
    desc, error = Desc(in_channels=1, out_channels=1, in_size=(1, 1, 1), kernel=(1, 1, 1)), Error()
    desc.reserved[last] = 7
    status = library.convt3d_plan_init(Plan(), desc, FORWARD, error)
    if library.convt3d_status_string(status) != b"RESERVED_NOT_ZERO" or (error.axis, error.got) != (last, 7):
        return "its convt3d_desc is not that of this package"
    return None


def _load():
    tried = []
    for place in _places():
        try:
            library = _declare(ctypes.CDLL(place))
            why = _complaint(library)
        except (OSError, AttributeError) as exception:
            why = str(exception)
        if why is None:
            return library
        tried.append(f"  {place}: {why}")
    raise ImportError(
        "convt3d_torch needs convt3d's shared library: build it (meson setup build && meson compile -C build) and set "
        "CONVT3D_LIBRARY to its file, install it for the system, or copy it beside this package. Tried:\n"
        + "\n".join(tried))


library = _load()


def _entries():
    """What may follow the convolution: name -> (kind, USES_... bits)."""
    kinds = {}
    while (name := library.convt3d_op_name(len(kinds))) is not None:
        kinds[name.decode()] = (len(kinds), library.convt3d_op_uses(len(kinds)))
    del kinds["end"]
    return kinds


ENTRIES = _entries()


# ---- calls -----------------------------------------------------------------------------------------------------------

def _check(status, error):
    if status:
        name = library.convt3d_status_string(status).decode()
        raise (MemoryError if "OUT_OF_MEMORY" in name else RuntimeError)(f"convt3d: {error.text.decode()} [{name}]")


class Problem(NamedTuple):
    """All that a plan depends on, as plain numbers, so that plans can be kept by it. Named as in convt3d_desc; strides
    are None where dense; ops are (kind, groups, a, b, residual's stride or None). cuda_device: None is the CPU."""
    gradients: int
    cuda_device: int | None
    batch: int
    in_channels: int
    out_channels: int
    groups: int
    in_size: tuple
    kernel: tuple
    stride: tuple
    padding: tuple
    output_padding: tuple
    dilation: tuple
    dtype: int
    layout: int
    math: int
    threads: int
    alignment: int
    x_stride: tuple | None = None
    dy_stride: tuple | None = None
    ops: tuple = ()
    backward: int = 0


class Planned(NamedTuple):
    plan: Plan
    workspace_bytes: int
    saves: int
    kernel: str
    weight_kernel: str


@functools.lru_cache(maxsize=4096)
def plan(problem):
    """The plan of a Problem, made once. On CUDA the problem's device must be current."""
    fields = problem._asdict()
    gradients, cuda_device, ops = fields.pop("gradients"), fields.pop("cuda_device"), fields.pop("ops")
    desc = Desc(device=CPU if cuda_device is None else CUDA,
                **{name: value for name, value in fields.items() if value is not None})
    for entry, (kind, groups, a, b, stride) in zip(desc.ops, ops):
        entry.kind, entry.groups, entry.a, entry.b = kind, groups, a, b
        if stride is not None:
            entry.stride[:] = stride
    planned, info, error = Plan(), Info(), Error()
    _check(library.convt3d_plan_init(planned, desc, gradients, error), error)
    _check(library.convt3d_plan_info(planned, info, error), error)
    return Planned(planned, info.workspace_bytes, info.saves, info.kernel.decode(), info.weight_kernel.decode())


def run(planned, io):
    error = Error()
    _check(library.convt3d_run(planned.plan, io, error), error)
