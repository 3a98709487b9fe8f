"""Promise: the examples run and say the truth. Volumes of every kind are made here byte by byte, upsampled, and the
results are checked against the NIfTI standard without the library that wrote them. Speaks TAP.

    test_examples.py QUICKSTART [UPSAMPLE_VOLUME]
"""
import gzip
import os
import random
import struct
import subprocess
import sys
import tempfile

TYPES = {"uint8": (2, "B"), "int8": (256, "b"), "int16": (4, "h"), "uint16": (512, "H"), "int32": (8, "i"),
         "uint32": (768, "I"), "float32": (16, "f"), "float64": (64, "d")}
SFORM = [0.9, 0.1, -0.3, -40, -0.1, 1.1, 0.2, -50, 0.35, -0.2, 2.5, -30]        # oblique and anisotropic
QUATERNION = (0.1, -0.2, 0.3)
VOXEL = (0.5, 1.25, 3.0)
QOFFSET = (11.0, -7.0, 5.0)
QFAC = -1.0
MM_SECONDS = 10
count = 0


def report(ok, name, detail=""):
    global count
    count += 1
    print(("ok" if ok else "not ok"), count, "-", name)
    if not ok:
        print("".join(f"# {line}\n" for line in str(detail).splitlines()), end="")


def volume(code, letter, dims, values, intent=0, order="<"):
    header = bytearray(352)
    struct.pack_into(order + "i", header, 0, 348)
    struct.pack_into(order + "8h", header, 40, len(dims), *(list(dims) + [1] * (7 - len(dims))))
    struct.pack_into(order + "3h", header, 68, intent, code, 8 * struct.calcsize(letter))
    struct.pack_into(order + "8f", header, 76, QFAC, *VOXEL, 2, 1, 1, 1)
    struct.pack_into(order + "3f", header, 108, 352, 2.5, -7)                   # vox_offset, scl_slope, scl_inter
    struct.pack_into(order + "hBB", header, 120, 5, 1, MM_SECONDS)              # slice_end, slice_code, units
    struct.pack_into(order + "ff", header, 132, 0.1, 3)                         # slice_duration, toffset
    struct.pack_into(order + "2h6f", header, 252, 1, 2, *QUATERNION, *QOFFSET)
    struct.pack_into(order + "12f", header, 280, *SFORM)
    header[344:348] = b"n+1\0"
    return bytes(header) + b"".join(struct.pack(order + letter, value) for value in values)


def rotation(b, c, d, qfac):
    a = (1 - b * b - c * c - d * d) ** 0.5
    rows = [[a*a + b*b - c*c - d*d, 2*b*c - 2*a*d, 2*b*d + 2*a*c],
            [2*b*c + 2*a*d, a*a + c*c - b*b - d*d, 2*c*d - 2*a*b],
            [2*b*d - 2*a*c, 2*c*d + 2*a*b, a*a + d*d - c*c - b*b]]
    return [[row[0], row[1], row[2] * qfac] for row in rows]


def geometry_is_right(data, dims):
    """Sizes doubled, voxels halved, new voxel 0 at -1/4 of an old one in both transforms; the rest as it was."""
    shape = struct.unpack_from("<8h", data, 40)
    pixdim = struct.unpack_from("<8f", data, 76)
    qform = struct.unpack_from("<2h6f", data, 252)
    sform = struct.unpack_from("<12f", data, 280)
    turn = rotation(*QUATERNION, QFAC)
    want_offset = [QOFFSET[r] - sum(turn[r][c] * VOXEL[c] for c in range(3)) / 4 for r in range(3)]
    want_sform = []
    for r in range(3):
        row = SFORM[4 * r:4 * r + 4]
        want_sform += [row[0] / 2, row[1] / 2, row[2] / 2, row[3] - sum(row[:3]) / 4]

    def near(got, want):
        return all(abs(g - w) < 1e-4 for g, w in zip(got, want))
    return (list(shape[1:4]) == [2 * n for n in dims[:3]] and list(shape[4:5]) == list(dims[3:4] or [1])
            and near(pixdim[:5], [QFAC] + [v / 2 for v in VOXEL] + [2])
            and qform[:2] == (1, 2) and near(qform[2:5], QUATERNION) and near(qform[5:], want_offset)
            and near(sform, want_sform)
            and near(struct.unpack_from("<2f", data, 112), (2.5, -7)) and data[122] == 0 and data[123] == MM_SECONDS
            and near(struct.unpack_from("<2f", data, 132), (0, 3)))


def upsample(program, folder, name, content):
    """Runs the program on a file of this content; returns its status, its last words and the bytes it wrote."""
    source, target = os.path.join(folder, name), os.path.join(folder, "out.nii.gz")
    with open(source, "wb") as file:
        file.write(content)
    picture = os.path.join(folder, "out.png")
    for path in (target, picture):
        if os.path.exists(path):
            os.remove(path)
    run = subprocess.run([program, "--check", source, target, picture], capture_output=True, text=True, check=False)
    written = None
    if os.path.exists(target):
        with gzip.open(target) as file:
            written = file.read()
    return run.returncode, run.stdout + run.stderr, written


def test_volumes(program, folder):
    dice = random.Random(1)
    for name, (code, letter) in TYPES.items():
        dims = (7, 5, 6, 3)
        if letter in "fd":
            values = [dice.gauss(0, 1) * 10 ** dice.randint(-5, 5) for _ in range(630)]
        else:
            bits = 8 * struct.calcsize(letter)
            low = -(1 << bits - 1) if letter.islower() else 0
            values = [dice.choice((low, low + (1 << bits) - 1, dice.randrange(low, low + (1 << bits))))
                      for _ in range(630)]
        for order in "<>":
            status, said, data = upsample(program, folder, "in.nii", volume(code, letter, dims, values, order=order))
            ok = status == 0 and data is not None and geometry_is_right(data, dims)
            report(ok, f"{name}, {'little' if order == '<' else 'big'} endian: values and geometry", said)

    status, said, data = upsample(program, folder, "in.nii", volume(4, "h", (4, 3, 2), [1000] * 24))
    flat = data and struct.unpack_from("<192h", data, 352)
    report(status == 0 and flat == (1000,) * 192, "a constant volume stays constant up to its border", said)
    status, said, data = upsample(program, folder, "in.nii", volume(2, "B", (2, 2, 2), [0, 64, 0, 64, 0, 64, 0, 64]))
    row = data and struct.unpack_from("<4B", data, 352)
    report(status == 0 and row == (0, 16, 48, 64), "a step of 64 becomes 0 16 48 64", said)


def test_refusals(program, folder):
    good = volume(4, "h", (7, 5, 6), list(range(210)))
    squeezed = gzip.compress(good)
    damaged = bytearray(squeezed)
    damaged[-6] ^= 1
    for name, file, content, why in (
            ("labels", "in.nii", volume(2, "B", (2, 2, 2), [1] * 8, intent=1002), "labels"),
            ("RGB", "in.nii", volume(128, "3s", (2, 2, 2), [b"rgb"] * 8), "RGB24"),
            ("complex numbers", "in.nii", volume(32, "d", (2, 2, 2), [1.0] * 8), "COMPLEX64"),
            ("64-bit integers", "in.nii", volume(1024, "q", (2, 2, 2), [1] * 8), "INT64"),
            ("a flat image", "in.nii", volume(2, "B", (4, 4), [1] * 16), "3 dimensions"),
            ("five dimensions", "in.nii", volume(2, "B", (2, 2, 2, 2, 2), [1] * 32), "3 dimensions"),
            ("a file cut short", "in.nii", good[:-1], "cut short"),
            ("a compressed file cut short", "in.nii.gz", squeezed[:-1], "cut short"),
            ("a damaged compressed file", "in.nii.gz", bytes(damaged), ""),
            ("something else", "in.nii", b"hello" * 100, "not a NIfTI")):
        status, said, data = upsample(program, folder, file, content)
        report(status == 2 and data is None and said.count("\n") == 1 and why in said, "refused in one line: " + name,
               f"status {status}\n{said}")
    report(not [name for name in os.listdir(folder) if ".part" in name], "no temporary file is left behind")


def main():
    said = subprocess.run([sys.argv[1]], capture_output=True, text=True, check=False).stdout.split()
    report(len(said) == 64 and said[0] == "1.5" and said[-1] == "80.5", "quickstart computes what it says", said)
    if len(sys.argv) > 2:
        with tempfile.TemporaryDirectory() as folder:
            test_volumes(sys.argv[2], folder)
            test_refusals(sys.argv[2], folder)
    else:
        report(True, "upsample_volume # SKIP not built: libnifti or stb is missing")
    print(f"1..{count}")


main()
