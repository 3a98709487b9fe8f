#!/bin/sh
# Promise: dist/convt3d.h, the header with the fast CPU path in one file, is clean and right as C99 and as C++17 by gcc
# and by clang: the whole table of cases, random problems, and two private copies in one program; with gcc also by
# force, kernel by kernel. dist/convt3d_cuda.cu is to the compiler, token for token, what cuda/ is; test_consumers.sh
# compiles, links and runs it with the lines of the README.
# usage: test_amalgamated.sh SOURCE_ROOT
. "$(dirname "$0")/tap.sh"

strict="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror"
tree=$work/tree

# A tree in which convt3d.h is the written file, and nothing else of the library is there.
make_tree() {
    mkdir -p "$tree/tools" && cp -r "$root/tests" "$tree" && cp "$root"/tools/*.h "$tree/tools" &&
    cp "$root/convt3d.c" "$tree" && python3 "$root/tools/amalgamate.py" --out "$work/dist" &&
    cp "$work/dist/convt3d.h" "$tree"
}

same_when_written_twice() {
    python3 "$root/tools/amalgamate.py" --out "$work/again" && diff -r "$work/dist" "$work/again"
}

# builds C_COMPILER COMPILER LANGUAGE: the library in that language, the tests, and a program with two private copies
builds() {
    "$2" $3 -O2 -fopenmp $strict -c "$tree/convt3d.c" -o "$work/library.o" &&
    for test in cases random; do
        "$1" -std=c99 -O2 -fopenmp -ffp-contract=off -I"$tree" "$tree/tests/test_$test.c" -c -o "$work/$test.o" &&
        "$2" -fopenmp "$work/$test.o" "$work/library.o" -o "$work/$test" -lm || return 1
    done
}
embeds() {
    first=$tree/tests/test_embed.c
    case $2 in *c++*) first=$tree/tests/test_embed_cpp.cpp ;; esac
    "$1" $2 -O2 -fopenmp -DCONVT3D_IMPLEMENTATION -DCONVT3D_STATIC $strict "$first" "$tree/tests/test_embed_other.c" \
        -o "$work/embed" -lm && "$work/embed"
}

# openmp COMPILER: whether it has the library
openmp() { echo 'int main(void) { return 0; }' | "$1" -fopenmp -x c - -o "$work/openmp" 2>/dev/null; }

one() {                                 # C_COMPILER COMPILER LANGUAGE NAME EMBEDS_TOO
    if ! have "$2" || ! openmp "$1"; then skip "$4" "$2 or its OpenMP library is not installed"; return; fi
    try "$4: builds without a warning" builds "$1" "$2" "$3"
    try "$4: the table of cases" "$work/cases"
    try "$4: random problems" "$work/random" 41 500
    [ -z "$5" ] || try "$4: two private copies" embeds "$2" "$3"
}

by_force() {
    gcc -std=c99 -O2 -fopenmp -c "$tree/convt3d.c" -o "$work/library.o" &&
    gcc -std=c99 -O2 -fopenmp -ffp-contract=off -I"$tree" "$tree/tests/test_kernels.c" "$work/library.o" \
        -o "$work/kernels" -lm && "$work/kernels" cpu >"$work/tap" && cat "$work/tap" &&
    grep -q '^ok .*portable: right' "$work/tap"
}

# What is left of a CUDA file after preprocessing, one token a line.
tokens() {
    nvcc -E -std=c++17 -arch=sm_90a "$1" -o "$work/text" && grep -v '^#' "$work/text" | tr -s ' \t\n' '\n' >"$2"
}
cuda_is_the_same() {
    tokens "$root/cuda/convt3d_cuda.cu" "$work/of_cuda" && tokens "$work/dist/convt3d_cuda.cu" "$work/of_dist" &&
    [ "$(wc -l <"$work/of_cuda")" -gt 20000 ] && cmp "$work/of_cuda" "$work/of_dist"
}

try "tools/amalgamate.py writes the files" make_tree
try "and the same when it runs again" same_when_written_twice
one gcc gcc "-std=c99" "C99, gcc" embed
one clang clang "-std=c99" "C99, clang" ""
one gcc g++ "-std=c++17 -x c++" "C++17, g++" ""
one clang clang++ "-std=c++17 -x c++" "C++17, clang++" embed
if have gcc && openmp gcc; then try "every CPU kernel by force" by_force
else skip "every CPU kernel by force" "no gcc, or no OpenMP"; fi
if have nvcc; then try "dist/convt3d_cuda.cu is cuda/, token for token" cuda_is_the_same
else skip "dist/convt3d_cuda.cu is cuda/, token for token" "nvcc is not installed"; fi
done_testing
