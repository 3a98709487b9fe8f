#!/bin/sh
# Promise: convt3d.h compiles without a warning as C99, C11 and C++17 by every compiler here, with and without OpenMP,
# cross-compiles for Windows and aarch64 (and runs there under qemu), and is accepted by nvcc. A compiler that is
# missing is a skip. MSVC cannot be tested here.
# usage: test_compilers.sh SOURCE_ROOT
. "$(dirname "$0")/tap.sh"

tests=$root/tests
strict="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror"
embed="-DCONVT3D_IMPLEMENTATION -DCONVT3D_STATIC"

# strict_c COMPILER STANDARD EXTRA...: the library, then two private copies in one program, which runs.
strict_c() {
    compiler=$1
    standard=$2
    shift 2
    "$compiler" -std="$standard" -O2 $strict "$@" -c "$root/convt3d.c" -o "$work/library.o" &&
    "$compiler" -std="$standard" -O2 $strict $embed "$@" "$tests/test_embed.c" "$tests/test_embed_other.c" \
        -o "$work/embed" -lm &&
    "$work/embed"
}

strict_cpp() {
    compiler=$1
    shift
    "$compiler" -std=c++17 -O2 $strict "$@" -x c++ -c "$root/convt3d.c" -o "$work/library.o" &&
    "$compiler" -std=c++17 -O2 $strict $embed "$@" "$tests/test_embed_cpp.cpp" -x c++ "$tests/test_embed_other.c" \
        -o "$work/embed" -lm &&
    "$work/embed"
}

for compiler in gcc clang; do
    for standard in c99 c11; do
        for openmp in "" -fopenmp; do
            name="$compiler $standard ${openmp:-without OpenMP}"
            if ! have $compiler; then skip "$name" "$compiler is not installed"
            elif [ -n "$openmp" ] && ! echo 'int main(void){return 0;}' | $compiler $openmp -x c - -o "$work/openmp" \
                2>/dev/null; then skip "$name" "$compiler has no OpenMP library"
            else try "$name" strict_c $compiler $standard $openmp
            fi
        done
    done
done

for compiler in g++ clang++; do
    for openmp in "" -fopenmp; do
        name="$compiler c++17 ${openmp:-without OpenMP}"
        if ! have $compiler; then skip "$name" "$compiler is not installed"
        elif [ -n "$openmp" ] && ! echo 'int main(){return 0;}' | $compiler $openmp -x c++ - -o "$work/openmp" \
            2>/dev/null; then skip "$name" "$compiler has no OpenMP library"
        else try "$name" strict_cpp $compiler $openmp
        fi
    done
done

tcc_builds() {
    tcc -std=$1 -Wall -Werror -c "$root/convt3d.c" -o "$work/library.o" &&
    tcc -std=$1 -Wall -Werror $embed "$tests/test_embed.c" "$tests/test_embed_other.c" -o "$work/embed" -lm &&
    "$work/embed" &&
    tcc -std=$1 -I"$root" "$tests/test_half.c" "$work/library.o" -o "$work/half" -lm && "$work/half"
}
for standard in c99 c11; do
    if have tcc; then try "tcc $standard" tcc_builds $standard
    else skip "tcc $standard" "tcc is not installed"
    fi
done

mingw_builds() {
    x86_64-w64-mingw32-gcc -std=c99 -O2 $strict -c "$root/convt3d.c" -o "$work/library.obj" &&
    x86_64-w64-mingw32-gcc -std=c99 -O2 $strict $embed "$tests/test_embed.c" "$tests/test_embed_other.c" \
        -o "$work/embed.exe"
}
if have x86_64-w64-mingw32-gcc; then try "mingw-w64 cross-compiles" mingw_builds
else skip "mingw-w64 cross-compiles" "x86_64-w64-mingw32-gcc is not installed"
fi

aarch64_builds() {
    aarch64-linux-gnu-gcc -std=c99 -O2 $strict -static -c "$root/convt3d.c" -o "$work/library.arm.o" &&
    for test in half random; do
        aarch64-linux-gnu-gcc -std=c99 -O2 -ffp-contract=off -static -I"$root" "$tests/test_$test.c" \
            "$work/library.arm.o" -o "$work/$test.arm" -lm || return 1
    done
}
if have aarch64-linux-gnu-gcc; then
    try "aarch64 cross-compiles" aarch64_builds
    if have qemu-aarch64; then
        try "aarch64: 16-bit conversions" qemu-aarch64 "$work/half.arm"
        try "aarch64: random problems" qemu-aarch64 "$work/random.arm" 11 200
    else
        skip "aarch64 runs" "qemu-aarch64 is not installed"
    fi
else
    skip "aarch64 cross-compiles" "aarch64-linux-gnu-gcc is not installed"
fi

nvcc_builds() {
    nvcc -x cu -std=c++17 -Werror all-warnings $embed -c "$tests/test_embed_cpp.cpp" -o "$work/embed.cu.o"
}
if have nvcc; then try "nvcc compiles the header" nvcc_builds
else skip "nvcc compiles the header" "nvcc is not installed"
fi

# The judge is held to the same warnings.
tests_are_strict() {
    for file in "$tests"/test_*.c; do
        case $file in *test_cuda.c) continue ;; esac    # wants the headers of CUDA
        "$1" -std=c99 -fsyntax-only $strict -I"$root" "$file" || return 1
    done
}
for compiler in gcc clang; do
    if have $compiler; then try "$compiler: the tests themselves" tests_are_strict $compiler
    else skip "$compiler: the tests themselves" "$compiler is not installed"
    fi
done
done_testing
