#!/bin/sh
# Promise: the NEON kernel, cross-compiled and run under qemu's user mode, is right on the whole table of cases by
# force, is what the library chooses on aarch64, and keeps the numeric contract there. A missing package is a skip.
# usage: test_neon.sh SOURCE_ROOT
. "$(dirname "$0")/tap.sh"

compiler=aarch64-linux-gnu-gcc
strict="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror"
tests="kernels random numeric_contract"

builds() {
    for file in convt3d.c cpu/convt3d_cpu.c; do
        $compiler -std=c99 -O2 -fopenmp $strict -DCONVT3D_CPU_FAST -c "$root/$file" -o "$work/$(basename $file).o" ||
            return 1
    done
    for test in $tests; do
        $compiler -std=c99 -O2 -fopenmp -ffp-contract=off -static -I"$root" "$root/tests/test_$test.c" "$work"/*.c.o \
            -o "$work/$test" -lm || return 1
    done
}

# The table of cases by force; a NEON row that is absent or refuses everything fails.
by_force() {
    qemu-aarch64 "$work/kernels" cpu neon >"$work/tap" && cat "$work/tap" && grep -q '^ok .*neon: right on' "$work/tap"
}
chosen() {
    printf '%s\n' '#include "convt3d.h"' '#include <stdio.h>' 'int main(void) { convt3d_desc d = {0}; char t[2048];' \
        'd.batch = 1; d.in_channels = d.out_channels = 32;' \
        'for (int a = 0; a < 3; a++) { d.in_size[a] = 16; d.kernel[a] = 3; d.stride[a] = 2; }' \
        'return convt3d_explain(&d, CONVT3D_FORWARD, t, sizeof t, NULL, NULL) || !puts(t); }' >"$work/chosen.c"
    $compiler -std=c99 -fopenmp -static -I"$root" "$work/chosen.c" "$work"/*.c.o -o "$work/chosen" -lm &&
    qemu-aarch64 "$work/chosen" >"$work/text" && cat "$work/text" && grep -q 'kernel.*neon' "$work/text"
}

if ! have $compiler; then skip "NEON" "$compiler is not installed"
elif ! have qemu-aarch64; then
    try "NEON builds without a warning" builds
    skip "NEON runs" "qemu-aarch64 is not installed"
else
    try "NEON builds without a warning" builds
    try "NEON is chosen" chosen
    try "NEON by force: the table of cases" by_force
    try "random problems" qemu-aarch64 "$work/random" 11 300
    try "the numeric contract" qemu-aarch64 "$work/numeric_contract"
fi
done_testing
