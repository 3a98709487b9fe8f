#!/bin/sh
# Promise: no undefined behaviour, no stray access, no leak: tests under the address and undefined-behaviour sanitizers.
# usage: test_sanitizers.sh SOURCE_ROOT
. "$(dirname "$0")/tap.sh"

flags="-std=c99 -I$root -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"

build() {
    gcc $flags -DCONVT3D_CPU_FAST -c "$root/convt3d.c" -o "$work/header.o" &&
    gcc $flags -c "$root/cpu/convt3d_cpu.c" -o "$work/cpu.o" && ld -r "$work/header.o" "$work/cpu.o" -o "$work/library.o" &&
    for test in cases random validation guard plan alloc slab fused; do
        gcc $flags "$root/tests/test_$test.c" "$work/library.o" -o "$work/$test" -lm || return 1
    done
}

if ! have gcc; then
    skip "sanitizers" "gcc is not installed"
elif ! echo 'int main(void){return 0;}' | gcc -fsanitize=address,undefined -x c - -o "$work/probe" 2>/dev/null ||
     ! "$work/probe"; then
    skip "sanitizers" "gcc has no sanitizer libraries"
else
    try "the tests build" build
    try "random problems" "$work/random" 21 500
    for test in cases validation guard plan alloc slab; do
        try "test_$test" "$work/$test"
    done
    for kernel in reference portable avx2; do
        try "test_fused, $kernel" "$work/fused" $kernel
    done
fi
done_testing
