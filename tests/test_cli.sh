#!/bin/sh
# Promises of the command line: run, check, explain and bench do what --help says; bad arguments and bad files give one
# clear line and exit status 2; an output file appears whole or not at all; a failed allocation is an error like any.
# usage: test_cli.sh CONVT3D SOURCE_DIRECTORY        (TAP on standard output)
tool=$1 source=$2
export OMP_NUM_THREADS=2
count=0 failed=0
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
case $tool in /*) ;; *) tool=$PWD/$tool ;; esac
case $source in /*) ;; *) source=$PWD/$source ;; esac
cd "$dir" || exit 1

# report STATUS NAME: one test point; on failure what the tool said is shown.
report() {
    count=$((count + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $count - $2"
    else
        echo "not ok $count - $2"
        failed=$((failed + 1))
        sed 's/^/# stdout: /' out 2>/dev/null | head -5
        sed 's/^/# stderr: /' err 2>/dev/null | head -5
    fi
}

# exits NAME WANTED ARGUMENT...: the tool's exit status; its output is in the files out and err.
exits() {
    name=$1 wanted=$2
    shift 2
    "$tool" "$@" >out 2>err
    got=$?
    [ "$got" -eq "$wanted" ]
    report $? "$name: exit status $wanted"
}

one_line() { [ "$(wc -l <err)" -eq 1 ] && grep -q '^convt3d: ' err; }

# refuses TEXT ARGUMENT...: exit status 2 and one line on standard error that contains TEXT.
refuses() {
    text=$1
    shift
    "$tool" "$@" >out 2>err
    [ $? -eq 2 ] && one_line && grep -qF -e "$text" err
    report $? "refused with \"$text\""
}

# ---- help --------------------------------------------------------------------------------------------------------

exits '--version' 0 --version
grep -q '^convt3d [0-9]' out; report $? '--version names itself'
exits '--help' 0 --help
for command in run check explain bench; do
    "$tool" $command --help >out 2>err && grep -q "^usage: convt3d $command" out && [ ! -s err ]
    report $? "$command --help"
done

# ---- bad arguments -----------------------------------------------------------------------------------------------

good=n1_ic3_oc4_i5x4x3_k3_s2_p1_op1
refuses 'a command is wanted'
refuses 'is none of run' walk
refuses 'wants a SHAPE' check
refuses 'has no option --frobnicate' check $good --frobnicate 1
refuses 'has no option --out' check $good --out y.npy
refuses 'has no option --dtype' run --dtype f32
refuses '--seed wants a value' check $good --seed
refuses '--seed wants a value' check $good --seed=
refuses '--seed is given twice' check $good --seed 1 --seed 2
refuses '--seed "-1"' check $good --seed -1
refuses '--seed "18446744073709551616"' check $good --seed 18446744073709551616
refuses '--threads "two"' check $good --threads two
refuses '--threads 0 is outside' check $good --threads 0
refuses '--threads 99999999999999999999 is outside' check $good --threads 99999999999999999999
refuses '--dtype "f33"' check $good --dtype f32,f33
refuses 'names f32 twice' check $good --dtype f32,f32
refuses '--device "gpu"' check $good --device gpu
refuses 'option "-x" is unknown' check $good -x
refuses 'names no kernel' check $good --kernel nonesuch
refuses 'names no kernel' bench $good --kernel nonesuch
refuses '--kernel is too long' check $good --kernel aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
refuses 'oc is missing' check n1_ic3_i5_k3
refuses 'is none of n, ic' check ${good}_z3
refuses 'is none of n, ic' check ${good}_
refuses 'ic is given twice' check ${good}_ic3
refuses 'wants one number' check n1_ic3x3_oc4_i5_k3
refuses 'one number or three' check n1_ic3_oc4_i5x5_k3
refuses 'does not fit 64 bits' check n1_ic3_oc4_i9223372036854775808_k3
refuses 'output_padding[0] = 2 must be smaller than max(stride[0], dilation[0]) = 2' check n1_ic3_oc4_i5_k3_s2_op2
refuses 'groups = 2 must divide in_channels = 3' explain n1_ic3_oc4_i5_k3_g2
refuses 'address space' check n9223372036854775807_ic3_oc4_i5_k3
refuses 'nothere.csv: ' bench @nothere.csv
if ! "$tool" explain $good --device cuda >out 2>err; then
    refuses 'CUDA' check $good --device cuda
    refuses 'CUDA' bench $good --device cuda
fi

# ---- workload files ----------------------------------------------------------------------------------------------

head=name,in_channels,out_channels,in_d,in_h,in_w,k_d,k_h,k_w
printf '%s\nfirst,1,2,3,4,5,2,2,2\n"a, ""b""",2,2,2,2,2,1,1,1\n' $head >good.csv
exits 'a workload file' 0 check @good.csv
grep -q 'a, "b"' out; report $? 'quoted names'
printf '%s\r\nfirst,1,2,3,4,5,2,2,2\r\n' $head >crlf.csv
exits 'CRLF line ends' 0 explain @crlf.csv
printf '%s\nfirst,1,2,3,4,5z,2,2,2\n' $head >bad.csv
refuses 'bad.csv:2: in_w = "5z" is not an integer' check @bad.csv
printf '%s\nfirst,1,2,3\n' $head >bad.csv
refuses 'bad.csv:2: in_h is missing' check @bad.csv
printf '%s\nfirst,1,2,3,4,5,2,2,2,9\n' $head >bad.csv
refuses 'bad.csv:2: more than' check @bad.csv
printf '%s,color\n' $head >bad.csv
refuses 'bad.csv:1: column "color" is unknown' check @bad.csv
printf 'name,batch\n' >bad.csv
refuses 'bad.csv:1: column in_channels is missing' check @bad.csv
printf '%s\n' $head >bad.csv
refuses 'no workload' check @bad.csv
refuses 'not a text file' check "@$tool"
refuses 'dir.csv: ' check @dir.csv

# ---- check, explain, bench ---------------------------------------------------------------------------------------

exits 'check, all types and layouts' 0 check $good --dtype all --layout all
grep -q '^16 passed, 0 failed$' out; report $? 'all combinations were checked'
grep '^      convt3d check ' out | sed -n 7p | sed 's/^ *convt3d //' >line
eval "set -- $(cat line)"
cp out all
exits 'the reproducer line runs' 0 "$@"
[ "$(grep '^pass' out)" = "$(grep '^pass' all | sed -n 7p)" ] && [ "$(grep '^pass' out | wc -l)" -eq 1 ]
report $? 'the reproducer line repeats the same case'
exits 'check with a fixed output size and a signed padding' 0 check n1_ic2_oc3_i4_k3_s3_p-1x0x2_os9x10x11
grep -q 'p-1x0x2_op0_d1_g1_os9x10x11' out; report $? 'the reproducer line has both'
exits 'check, batch 0' 0 check ${good} --batch 0
exits 'explain' 0 explain $good
grep -q '^kernel ' out; report $? 'explain names the kernel'
exits 'bench' 0 bench $good ic4_oc4_i8_k2_s2 --dtype f32,f64 --batch 2 --json bench.json
printf '%s\nquote"\\and\ttab\303\251\377,1,2,3,4,5,2,2,2\n' $head >odd.csv
exits 'bench of a name that JSON must escape' 0 bench @odd.csv --json odd.json
refuses 'nodir/bench.json: ' bench $good --json nodir/bench.json
if [ -c /dev/full ]; then
    "$tool" explain $good >/dev/full 2>err
    [ $? -eq 2 ] && one_line; report $? 'a full standard output is an error'
    refuses '/dev/full: ' bench $good --json /dev/full
fi

# ---- what follows the convolution --------------------------------------------------------------------------------

list=channel_affine,add,relu,group_norm:2,silu
exits 'check with a list, all types and layouts' 0 check n2_ic3_oc4_i4_k3_s2_p1 --then $list --dtype all --layout all
grep -q '^16 passed, 0 failed$' out; report $? 'all combinations were checked'
grep -q -- "--then channel_affine,add,relu,group_norm:2:1e-05,silu " out; report $? 'the reproducer line has the list'
grep '^      convt3d check ' out | sed -n 7p | sed 's/^ *convt3d //' >line
eval "set -- $(cat line)"
exits 'it runs' 0 "$@"
exits 'explain with a list' 0 explain n2_ic3_oc4_i4_k3_s2_p1 --then $list
grep -q '^then *channel_affine, add, relu, group_norm:2, silu$' out; report $? 'explain has the list'
exits 'bench with a list' 0 bench ic4_oc4_i8_k2_s2 --then $list --json list.json
grep -q '"then": "channel_affine,add,relu,group_norm:2:1e-05,silu"' list.json; report $? 'the results have the list'
exits 'check of the gradients, all types' 0 check n2_ic3_oc4_i4_k3_s2_p1 --then $list --dtype all --pass backward
grep -q -- '--pass backward' out; report $? 'the reproducer line has the pass'
exits 'check of dx by name' 0 check $good --pass backward_x --kernel reference
exits 'explain of the gradients' 0 explain $good --pass backward
grep -q '^kernel .*weights ' out; report $? 'explain names the kernel of dw'
exits 'bench of the gradients' 0 bench ic4_oc4_i8_k2_s2 --then $list --pass backward --json gradients.json
grep -q '"pass": "backward"' gradients.json; report $? 'the results have the pass'
refuses '--pass "sideways" is none of: forward, backward' check $good --pass sideways
refuses '--pass goes with a shape' check --x x.npy --w w.npy --pass backward
printf '%s,then,y_channels\nplain,4,4,8,8,8,2,2,2,,0\nblock,4,4,8,8,8,2,2,2,"relu,group_norm:2",8\n' $head >blocks.csv
exits 'bench of lists and a view in a file' 0 bench @blocks.csv --layout all --then silu --json blocks.json
[ "$(grep -c '"then": "silu"' blocks.json) $(grep -c '"then": "relu,group_norm:2:1e-05"' blocks.json)" = '2 2' ]
report $? 'the list of a row comes before --then'
exits 'check of the same' 0 check @blocks.csv
exits 'the blocks of bench/ can be planned' 0 explain "@$source/bench/blocks.csv"
printf '%s,then\nblock,1,2,3,4,5,2,2,2,rel\n' $head >bad.csv
refuses 'bad.csv:2: then = "rel" entry "rel" is unknown' check @bad.csv
printf '%s,y_channels\nblock,1,2,3,4,5,2,2,2,1\n' $head >bad.csv
refuses 'bad.csv:2: y_channels is neither 0 nor at least out_channels' check @bad.csv
refuses 'entry "rel" is unknown' check $good --then rel
refuses 'entry "relu:1" has more numbers than it takes' check $good --then relu:1
refuses 'entry "clamp:1" has fewer numbers than it takes' check $good --then clamp:1
refuses 'entry "elu:x" has something that is no number' check $good --then silu,elu:x
refuses 'entry "group_norm:1.5" wants a whole number of groups first' check $good --then group_norm:1.5
refuses 'is one more than the 8 that a list may have' check $good --then relu,relu,relu,relu,relu,relu,relu,relu,relu
refuses 'must be at least 1 and divide out_channels' check ic4_oc4_i8_k2_s2 --then group_norm:3

# ---- .npy files, made without numpy ------------------------------------------------------------------------------

if ! command -v python3 >/dev/null; then
    echo "ok $((count + 1)) - .npy files # SKIP no python3"
    count=$((count + 1))
    echo "1..$count"
    [ "$failed" -eq 0 ]
    exit
fi
cat >make.py <<'PYTHON'
import itertools, json, math, random, struct, sys
def header(descr, shape, version=1, fortran=False):
    text = "{'descr': '%s', 'fortran_order': %s, 'shape': %r, }" % (descr, fortran, tuple(shape))
    length = 10 if version == 1 else 12
    text += " " * (-(length + len(text) + 1) % 64) + "\n"
    return (b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text))
            + text.encode("latin1"))
def write(path, shape, values, descr="<f4", version=1, cut=0, more=b"", fortran=False, claim=None):
    data = struct.pack(descr[0] + str(len(values)) + {"f4": "f", "f8": "d", "f2": "e"}.get(descr[1:], "i"), *values)
    with open(path, "wb") as file:
        file.write(header(descr, claim or shape, version, fortran) + data[:len(data) - cut] + more)
def read(path):
    data = open(path, "rb").read()
    assert data[:8] == b"\x93NUMPY\x01\x00"
    length, = struct.unpack("<H", data[8:10])
    assert (10 + length) % 64 == 0
    fields = eval(data[10:10 + length].decode("latin1"))
    assert not fields["fortran_order"]
    code = {"<f4": "f", "<f8": "d", "<f2": "e"}[fields["descr"]]
    values = struct.unpack("<%d%s" % (math.prod(fields["shape"]), code), data[10 + length:])
    return fields["descr"], fields["shape"], list(values)
def integers(count):
    return [float(random.randint(-4, 4)) for _ in range(count)]
PYTHON
cat >inputs.py <<'PYTHON'
from make import *
random.seed(7)
n, ic, oc, size, kernel, groups = 2, 4, 6, (3, 4, 2), (3, 2, 3), 2
x, w, bias = integers(n * ic * 24), integers(ic * oc // groups * 18), integers(oc)
xs, ws = (n, ic) + size, (ic, oc // groups) + kernel
last = [x[((i * ic + c) * 24) + s] for i in range(n) for s in range(24) for c in range(ic)]
for descr, name in (("<f4", "f4"), ("<f8", "f8"), ("<f2", "f2"), (">f4", "be")):
    write("x_%s.npy" % name, xs, x, descr)
    write("w_%s.npy" % name, ws, w, descr)
    write("b_%s.npy" % name, (oc,), bias, descr)
write("x_last.npy", (n,) + size + (ic,), last)
write("x_v2.npy", xs, x, version=2)
write("x_v3.npy", xs, x, version=3)
write("x_short.npy", xs, x, cut=1)
write("x_long.npy", xs, x, more=b"!")
write("x_lies.npy", xs, x, claim=(2, 4, 3, 4, 3))
write("x_huge.npy", xs, x, claim=(2, 4, 3 << 40, 4, 2))
write("x_overflow.npy", xs, x, claim=(1 << 62, 1 << 62, 3, 4, 2))
write("x_negative.npy", xs, x, claim=(2, -4, 3, 4, 2))
write("x_four.npy", (8,) + size, x)
write("x_nine.npy", (1,) * 4 + xs, x)
write("x_fortran.npy", xs, x, fortran=True)
write("x_int.npy", xs, [1] * len(x), "<i4")
write("x_empty.npy", (0, ic) + size, [])
write("w_channels.npy", (2, oc) + kernel, w)
write("b_short.npy", (oc - 1,), bias[1:])
open("x_magic.npy", "wb").write(b"PK\x03\x04 not an array at all")
open("x_version.npy", "wb").write(b"\x93NUMPY\x09\x00\x10\x00")
open("x_header.npy", "wb").write(b"\x93NUMPY\x01\x00\xff\x00{'descr'")
open("x_long_header.npy", "wb").write(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{'descr'")
open("x_nothing.npy", "wb").write(b"")
text = b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }\n"
open("x_struct.npy", "wb").write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"\0" * 4)
PYTHON
cat >compare.py <<'PYTHON'
# The definition, scattered, in Python: y[i*s - p + k*d] += x[i] * w[k].
from make import *
path, x_path, w_path, b_path, last = sys.argv[1:6]
s, p, op, d, groups = (2, 1, 3), (1, -1, 0), (1, 0, 2), (1, 2, 1), 2
_, (n, ic, *size), x = read(x_path)
_, (_, ocg, *kernel), w = read(w_path)
oc = ocg * groups
out = [(size[a] - 1) * s[a] - 2 * p[a] + d[a] * (kernel[a] - 1) + op[a] + 1 for a in range(3)]
bias = read(b_path)[2] if b_path != "-" else [0.0] * oc
y = {}
for i, c, *o in itertools.product(range(n), range(oc), *map(range, out)):
    y[(i, c, *o)] = bias[c]
for at, (b, c, *i) in enumerate(itertools.product(range(n), range(ic), *map(range, size))):
    for j, *k in itertools.product(range(ocg), *map(range, kernel)):
        o = [i[a] * s[a] - p[a] + k[a] * d[a] for a in range(3)]
        if all(0 <= o[a] < out[a] for a in range(3)):
            tap = ((c * ocg + j) * kernel[0] + k[0]) * kernel[1] * kernel[2] + k[1] * kernel[2] + k[2]
            y[(b, c // (ic // groups) * ocg + j, *o)] += x[at] * w[tap]
descr, shape, values = read(path)
order = (0, 4, 1, 2, 3) if last == "last" else (0, 1, 2, 3, 4)     # where n, c, d, h, w are in the file
assert [shape[a] for a in order] == [n, oc, *out], shape
for at, index in enumerate(itertools.product(*map(range, shape))):
    assert values[at] == y[tuple(index[a] for a in order)], (index, values[at])
PYTHON
python3 inputs.py; report $? 'test files are made'
geometry="--stride 2,1,3 --padding=1,-1,0 --output-padding 1,0,2 --dilation 1,2,1 --groups 2"

for type in f4 f8 f2; do
    exits "run, $type" 0 run --x x_$type.npy --w w_$type.npy --bias b_$type.npy --out y_$type.npy $geometry
    python3 compare.py y_$type.npy x_$type.npy w_$type.npy b_$type.npy first 2>err
    report $? "run, $type: the values are those of the definition"
done
exits 'run without a bias, on one thread' 0 run --x x_f4.npy --w w_f4.npy --out y.npy $geometry --threads 1
python3 compare.py y.npy x_f4.npy w_f4.npy - first 2>err; report $? 'run without a bias: the values'
exits 'run, channels last' 0 run --x x_last.npy --w w_f4.npy --bias b_f4.npy --out y.npy $geometry --layout ndhwc
python3 compare.py y.npy x_f4.npy w_f4.npy b_f4.npy last 2>err; report $? 'run, channels last: the values'
for other in v2 v3 be; do
    w=w_f4.npy
    exits "run, .npy variant $other" 0 run --x x_$other.npy --w $w --bias b_be.npy --out y.npy $geometry
    cmp -s y.npy y_f4.npy; report $? "run, .npy variant $other: the same file"
done
exits 'run, fixed output size' 0 run --x x_f4.npy --w w_f4.npy --out y.npy --groups 2 --out-size 5,6,7
python3 -c 'from make import *; assert read("y.npy")[1] == (2, 6, 5, 6, 7)'
report $? 'run, fixed output size: the shape'
exits 'run, batch 0' 0 run --x x_empty.npy --w w_f4.npy --out y.npy $geometry
python3 -c 'from make import *; assert read("y.npy")[1][:2] == (0, 6)'; report $? 'run, batch 0: the shape'
exits 'check of files' 0 check --x x_f4.npy --w w_f4.npy --bias b_f4.npy $geometry
eval "set -- $(grep '^      convt3d check ' out | sed 's/^ *convt3d //')"
cp out first
exits 'the reproducer line of files runs' 0 "$@"
cmp -s out first; report $? 'the reproducer line of files repeats the case'

for bad in short:bytes long:bytes lies:bytes huge:bytes overflow:64 negative:header four:dimensions nine:header \
    fortran:Fortran int:"'<i4'" magic:'not a .npy' version:version header:'within its header' \
    long_header:'too long' nothing:'not a .npy' struct:header missing:'No such file'; do
    refuses "x_${bad%%:*}.npy: " run --x x_${bad%%:*}.npy --w w_f4.npy --out no.npy --groups 2
    grep -qF -e "${bad#*:}" err; report $? "x_${bad%%:*}.npy: the message says \"${bad#*:}\""
done
refuses 'not a regular file' run --x . --w w_f4.npy --out no.npy
refuses 'has 2 input channels' run --x x_f4.npy --w w_channels.npy --out no.npy
refuses 'is f64' run --x x_f4.npy --w w_f8.npy --out no.npy
refuses 'is f16' run --x x_f4.npy --w w_f4.npy --bias b_f2.npy --out no.npy --groups 2
refuses 'output channels' run --x x_f4.npy --w w_f4.npy --bias b_short.npy --out no.npy --groups 2
refuses 'groups = 3 must divide' run --x x_f4.npy --w w_f4.npy --out no.npy --groups 3
refuses '64 bits' run --x x_f4.npy --w w_f4.npy --out no.npy --groups 9223372036854775807
refuses 'crops everything' run --x x_f4.npy --w w_f4.npy --out no.npy --groups 2 --padding 9
refuses 'run wants --out' run --x x_f4.npy --w w_f4.npy
refuses 'wants --x FILE and --w FILE' run --x x_f4.npy --out no.npy
refuses 'neither a number nor three' run --x x_f4.npy --w w_f4.npy --out no.npy --stride 2,2
refuses 'goes with a shape' check --x x_f4.npy --w w_f4.npy --dtype f64
refuses 'not with a shape' check $good --stride 2
refuses 'not both' check --x x_f4.npy --w w_f4.npy $good
[ ! -e no.npy ]; report $? 'no refused run left an output'

# ---- JSON --------------------------------------------------------------------------------------------------------

cat >json_check.py <<'PYTHON'
import json, math
data = json.load(open("bench.json"))
assert data["ceilings"]["copy_gbps"] > 0 and data["ceilings"]["f32_gflops"] > 0
assert len(data["results"]) == 4
for row in data["results"]:
    for key in ("name", "device", "kernel", "dtype", "math", "pass"):
        assert isinstance(row[key], str) and row[key], key
    for key in ("ms", "gflops", "gbps", "floor_ms", "fraction"):
        assert math.isfinite(row[key]) and row[key] > 0, key
    assert row["pass"] == "forward" and row["device"] == "cpu" and row["shape"].startswith("n2_")
    assert row["repeats"] >= 5
assert sorted({row["dtype"] for row in data["results"]}) == ["f32", "f64"]
assert json.load(open("odd.json"))["results"][0]["name"] == 'quote"\\and\ttab\u00e9?'
PYTHON
python3 json_check.py 2>err; report $? 'the JSON parses and has the promised keys'
python3 "$source/bench/compare.py" bench.json --peer bench.json >out 2>err && grep -q 'speed-up.*mean 1.000' out
report $? 'compare.py reads it'
python3 "$source/bench/compare.py" bench.json --peer bench.json --overview >out 2>err &&
    grep -q '^| times the peer.*1.000 |$' out
report $? 'and makes one table of all modes'
if "$tool" bench $good --peer onednn --json peer.json >out 2>err; then
    python3 "$source/bench/compare.py" peer.json --out table.md >out 2>err && grep -q '^- peer: oneDNN' table.md
    report $? 'bench --peer onednn, and compare.py reads it'
else one_line; report $? 'bench --peer onednn: one clear line where it is missing'
fi
plotter=
for python in python3 /usr/bin/python3; do
    [ -n "$plotter" ] || ! "$python" -c 'import matplotlib' 2>/dev/null || plotter=$python
done
if [ -n "$plotter" ]; then
    "$plotter" "$source/bench/plot.py" bench.json --peer bench.json --out plots >out 2>err &&
        grep -q '</svg>' plots/speedup-f32.svg && grep -q '</svg>' plots/roofline-f64.svg
    report $? 'plot.py draws it'
else
    count=$((count + 1))
    echo "ok $count - plot.py draws it # SKIP no matplotlib"
fi

# ---- outputs appear whole or not at all --------------------------------------------------------------------------

files="--x x_f4.npy --w w_f4.npy --bias b_f4.npy $geometry"
echo old >old.npy
( trap '' XFSZ; ulimit -f 1; exec "$tool" run $files --out old.npy >out 2>err )
[ $? -eq 2 ] && one_line; report $? 'a write that fails half way is an error'
[ "$(cat old.npy)" = old ] && [ -z "$(ls -- *.tmp 2>/dev/null)" ]; report $? 'the old file is there, and nothing else'
exits 'an old file is replaced' 0 run $files --out old.npy
cmp -s old.npy y_f4.npy; report $? 'by the new one'
ln -s old.npy link.npy && echo old >old.npy
exits 'output through a link' 0 run $files --out link.npy
[ -L link.npy ] && cmp -s old.npy y_f4.npy; report $? 'the link stays, its file is new'
refuses 'nodir/y.npy: ' run $files --out nodir/y.npy
mkdir locked && chmod 555 locked
if [ "$(id -u)" -ne 0 ]; then refuses 'locked/y.npy: ' run $files --out locked/y.npy; fi
refuses 'Is a directory' run $files --out locked
if [ -c /dev/full ]; then
    refuses '/dev/full: ' run $files --out /dev/full
    [ -c /dev/full ]; report $? 'a device is written to, not replaced'
fi

# ---- a wrong library is caught -------------------------------------------------------------------------------------

cat >broken.c <<'C'
/* The library with one output off by one, or left as it was. */
#define convt3d convt3d_intact
#define CONVT3D_IMPLEMENTATION
#include "convt3d.h"
#undef convt3d
#include <stdlib.h>
convt3d_status convt3d(const convt3d_desc *desc, const convt3d_io *io, convt3d_error *error);
convt3d_status convt3d(const convt3d_desc *desc, const convt3d_io *io, convt3d_error *error)
{
    float *output = (float *)io->y + 7, before = *output;
    convt3d_status status = convt3d_intact(desc, io, error);
    *output = getenv("UNWRITTEN") ? before : *output + 1;
    return status;
}
C
tool_sources=$(for file in "$source"/tools/*.c; do case $file in *_cuda.c | *_onednn.c) ;; *) echo "$file" ;; esac done)
if ${CC:-cc} -O1 -I "$source" -I "$source/tools" -o broken broken.c $tool_sources -lm >broken.log 2>&1; then
    intact=$tool tool=$dir/broken
    exits 'a wrong output' 1 check $good
    [ "$(grep -c '^FAIL .* worst y\[0,0,0,1,1\] ' out)" -eq 2 ] && grep -q '^0 passed, 2 failed$' out
    report $? 'a wrong output is named'
    UNWRITTEN=1; export UNWRITTEN
    exits 'an output that is not written' 1 check $good --data real
    unset UNWRITTEN
    tool=$intact
elif ! command -v "${CC:-cc}" >/dev/null; then
    count=$((count + 1))
    echo "ok $count - a wrong library is caught # SKIP no compiler"
else
    sed 's/^/# /' broken.log
    false; report $? 'the library with a mistake in it compiles'
fi

# ---- the N-th allocation fails -----------------------------------------------------------------------------------

cat >shim.c <<'C'
/* Fails allocation number FAIL_AT. Those of OpenMP, of the thread start and of CUDA's own start
 * are left alone: they end the process. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
static long calls, fail_at = -1;
static int fails(void *caller)
{
    Dl_info info;
    if (fail_at < 0) fail_at = getenv("FAIL_AT") ? atol(getenv("FAIL_AT")) : 0;
    if (!dladdr(caller, &info) || !info.dli_fname || strstr(info.dli_fname, "/ld-")) return 0;
    if (strstr(info.dli_fname, "omp.so") || strstr(info.dli_fname, "omp5.so")) return 0;
    if (strstr(info.dli_fname, "/libcu") || strstr(info.dli_fname, "/libstdc++")) return 0;
    if (++calls != fail_at) return 0;
    errno = ENOMEM;
    return 1;
}
void *malloc(size_t n) { return fails(__builtin_return_address(0)) ? 0 : __libc_malloc(n); }
void *calloc(size_t n, size_t m) { return fails(__builtin_return_address(0)) ? 0 : __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { return fails(__builtin_return_address(0)) ? 0 : __libc_realloc(p, n); }
__attribute__((destructor)) static void tell(void)
{
    char text[24];
    int at = 24;
    if (!getenv("TELL")) return;
    text[--at] = '\n';
    do text[--at] = (char)('0' + calls % 10); while ((calls /= 10) > 0);
    if (write(3, text + at, (size_t)(24 - at)) < 0) return;
}
C
# fail_each NAME ARGUMENT...: every allocation of this call fails in turn.
fail_each() {
    name=$1
    shift
    TELL=1 LD_PRELOAD=$dir/shim.so "$tool" "$@" >out 2>err 3>calls
    total=$(cat calls)
    at=0 bad=0 refused=0
    while [ "$at" -lt "${total:-0}" ]; do
        at=$((at + 1))
        rm -f fail.npy
        FAIL_AT=$at LD_PRELOAD=$dir/shim.so "$tool" "$@" >out 2>err
        case $? in
            0) [ ! -s err ] || bad=$at ;;
            2) refused=$((refused + 1)); one_line && [ ! -e fail.npy ] || bad=$at ;;
            *) bad=$at ;;
        esac
        [ "$bad" -eq 0 ] || break
    done
    [ "$bad" -eq 0 ] && [ "$refused" -gt 0 ] && [ -z "$(ls -- *.tmp 2>/dev/null)" ]
    report $? "$name: each of $total allocations fails in turn; an error is one clear line (first wrong: $bad)"
}
if ${CC:-cc} -shared -fPIC -O1 -o shim.so shim.c -ldl >/dev/null 2>&1 &&
    TELL=1 LD_PRELOAD=$dir/shim.so "$tool" --version 3>calls >/dev/null 2>&1 && [ -s calls ]; then
    fail_each run run $files --out fail.npy
    fail_each check check $good
    fail_each 'check of files' check $files
    fail_each explain explain @good.csv
else
    count=$((count + 1))
    echo "ok $count - the N-th allocation fails # SKIP no way to put a failing malloc under this build"
fi

echo "1..$count"
[ "$failed" -eq 0 ]
