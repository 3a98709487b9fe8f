#!/usr/bin/env python3
"""Writes dist/convt3d.h, which is convt3d.h and the fast CPU back end (cpu/) in one file that needs no other, and
dist/convt3d_cuda.cu, which is the CUDA back end (cuda/) in one file that wants dist/convt3d.h beside it.

usage: amalgamate.py [--source DIR] [--out DIR]

The CPU back end stands between what the files share (INTERNAL) and the implementation that chooses among kernels, so
that its table needs no declaration ahead and may be static: several files may then hold private copies
(CONVT3D_STATIC).
"""
import argparse
import pathlib
import re
import sys

DECLARATION = re.compile(r"#ifdef CONVT3D_CPU_FAST\n(?:extern [^\n]*\n)+#endif\n")
BOUNDARY = "#if defined(CONVT3D_IMPLEMENTATION) && !defined(CONVT3D__IMPLEMENTED)\n"
ONCE = "#pragma once\n"
HEADER_NOTE = """/* This is convt3d.h with its fast CPU back end in one file, written by tools/amalgamate.py. Do not edit it:
 * edit convt3d.h and cpu/. CONVT3D_CPU_FAST is always on here; build with -O2 and, for threads, -fopenmp. */
"""
CUDA_NOTE = """// This is convt3d's CUDA back end in one file, written by tools/amalgamate.py. Do not edit it: edit cuda/. It wants
// the convt3d.h that was written with it beside it:
//     nvcc -O3 -gencode arch=compute_90a,code=sm_90a -c convt3d_cuda.cu -o convt3d_cuda.o
// with the architecture of your card, and -DCONVT3D_CUDA where the implementation of convt3d.h is compiled.
//
"""


def once(pattern, replacement, text, what):
    """Replaces exactly one match; anything else means that a source changed in a way this program must learn."""
    text, count = re.subn(pattern, lambda match: replacement, text)
    if count != 1:
        sys.exit(f"amalgamate.py: expected {what} once, found it {count} times")
    return text


def expand(path, seen):
    """The text of a file with the files that it includes from its own folder put in their places; those that say
    "#pragma once" only once. An include of ../convt3d.h becomes one of convt3d.h."""
    text = path.read_text()
    if ONCE in text and path in seen:
        return ""
    seen.add(path)
    lines = []
    for line in text.replace(ONCE, "").splitlines(keepends=True):
        match = re.match(r'#\s*include "([^"]+)"', line)
        if not match:
            lines.append(line)
        elif match.group(1) == "../convt3d.h":
            lines.append('#include "convt3d.h"\n')
        else:
            lines.append(expand(path.parent / match.group(1), seen))
    return "".join(lines)


def cpu_part(source):
    text = expand(source / "cpu" / "convt3d_cpu.c", set())
    text = once(r'(?m)^#include "convt3d.h"\n', "", text, "the header")
    announced = r"(?m)^#define CONVT3D_BACKEND\n#ifndef CONVT3D_CPU_FAST\n[^\n]*\n#endif\n"
    text = once(announced, "", text, "CONVT3D_BACKEND")
    for name in ("const convt3d__backend convt3d__cpu_backends", "const int32_t convt3d__cpu_backend_count"):
        text = once("(?m)^" + name, "static " + name, text, name)
    return text


def amalgamated_header(source):
    text = (source / "convt3d.h").read_text()
    text = once(DECLARATION, "", text, "the declaration of the CPU back ends")
    text = once(r"(?m)^#ifndef CONVT3D_H\n", HEADER_NOTE + "#ifndef CONVT3D_CPU_FAST\n#  define CONVT3D_CPU_FAST\n#endif\n"
                "#ifndef CONVT3D_H\n", text, "the include guard")
    head, boundary, tail = text.partition(BOUNDARY)
    if not boundary:
        sys.exit("amalgamate.py: the implementation's beginning was not found")
    return head + BOUNDARY + cpu_part(source) + "#endif\n\n" + boundary + tail


def amalgamated_cuda(source):
    return CUDA_NOTE + expand(source / "cuda" / "convt3d_cuda.cu", set())


def main():
    here = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=pathlib.Path, default=here, help="the source tree (default: this one)")
    parser.add_argument("--out", type=pathlib.Path, help="folder to write to (default: dist/ of the source tree)")
    arguments = parser.parse_args()
    out = arguments.out or arguments.source / "dist"
    files = {"convt3d.h": amalgamated_header(arguments.source), "convt3d_cuda.cu": amalgamated_cuda(arguments.source)}
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (out / name).write_text(text)


if __name__ == "__main__":
    main()
