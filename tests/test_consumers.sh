#!/bin/sh
# Promise: a program gets convt3d with the compiler lines and build files of README.md, exactly as they stand there:
# dist/convt3d.h, the header alone, with cpu/, with CUDA, pkg-config, CMake, and a Meson subproject. Speaks TAP.
#     tests/test_consumers.sh SOURCE_ROOT
set -u
root=$(cd "$1" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
log=$scratch/log
tests=0

report() {                              # STATUS NAME: one TAP line, with the log when it failed
    tests=$((tests + 1))
    if [ "$1" -eq 0 ]; then echo "ok $tests - $2"
    else echo "not ok $tests - $2"; sed 's/^/# /' "$log"; fi
}
try() {                                 # NAME COMMAND...
    name=$1; shift
    "$@" >"$log" 2>&1 </dev/null
    report $? "$name"
}
skip() { tests=$((tests + 1)); echo "ok $tests - $1 # SKIP $2"; }
has() { command -v "$1" >/dev/null; }
block() {                               # HEADING LANGUAGE: that fenced block of the README
    awk -v heading="### $1" -v fence="\`\`\`$2" '
        /^#/ { here = $0 == heading }
        /^```$/ { inside = 0 }
        inside { print }
        here && $0 == fence { inside = 1 }' "$root/README.md"
}
run_line() { (cd "$1" && sh -ec "$2" && "./$3"); }

# The program: one voxel of 3, weight 5 and bias 2 make 17; a wrong answer, version or link fails.
cat >"$scratch/app.c" <<'PROGRAM'
#include <convt3d.h>
#include <stdio.h>
#include <string.h>
int main(void) {
    float x = 3, w = 5, bias = 2, y = 0;
    convt3d_desc desc = {0};
    convt3d_io io = {0};
    desc.batch = desc.in_channels = desc.out_channels = 1;
    desc.in_size[0] = desc.in_size[1] = desc.in_size[2] = desc.kernel[0] = desc.kernel[1] = desc.kernel[2] = 1;
    io.x = &x;  io.w = &w;  io.bias = &bias;  io.y = &y;
    printf("%s %g\n", convt3d_version(), convt3d(&desc, &io, NULL) == CONVT3D_OK ? (double)y : -1);
    return strcmp(convt3d_version(), CONVT3D_VERSION) != 0 || y != 17;
}
PROGRAM

# program LINE: what follows its -o
program() { echo "$1" | sed 's/.* -o \([^ ]*\).*/\1/'; }
# lines HEADING FOLDER: runs every line of that block in the folder, and the program that it makes.
lines() {
    block "$1" sh >"$scratch/lines"
    while IFS= read -r line; do
        if ! has "${line%% *}"; then skip "README: $line" "no ${line%% *}"
        else case $line in
            *" -c "*) try "README: $line" sh -ec "cd '$2' && $line" ;;
            *) try "README: $line" run_line "$2" "$line" "$(program "$line")" ;;
        esac; fi
    done <"$scratch/lines"
    test -s "$scratch/lines"; report $? "README has lines for: $1"
}

# ---- each way with no file but those that the README names
alone=$scratch/alone
mkdir -p "$alone/examples"
cp "$root/convt3d.h" "$root/convt3d.c" "$alone"
cp "$root/examples/quickstart.c" "$alone/examples"
sed 's/<convt3d.h>/"convt3d.h"/' "$scratch/app.c" >"$alone/app.c"
lines "convt3d.h alone: easiest to read" "$alone"
cp -r "$root/cpu" "$alone"
lines "convt3d.h with cpu/: what dist/convt3d.h is made of" "$alone"

# ---- the one file: written by the README's command in a copy of what it reads, then carried elsewhere
one_file=$scratch/one_file
write_dist() {
    mkdir -p "$scratch/source/tools" "$one_file" &&
    cp -r "$root/cpu" "$root/cuda" "$root/convt3d.h" "$scratch/source" &&
    cp "$root/tools/amalgamate.py" "$scratch/source/tools" &&
    grep -qx '    python3 tools/amalgamate.py' "$root/README.md" &&
    (cd "$scratch/source" && python3 tools/amalgamate.py) &&
    cp "$scratch/source/dist/convt3d.h" "$alone/app.c" "$one_file"
}
try "README: python3 tools/amalgamate.py" write_dist
lines "dist/convt3d.h: one file, fast" "$one_file"

# ---- the GPU by hand: compiled and linked here, and run where the program's problem is on the CPU
cp "$scratch/source/dist/convt3d_cuda.cu" "$one_file"
# nvcc takes flags from the environment too: where it can, it optimises less here, which spares minutes. The build of
# the library compiles the same text in earnest (test_amalgamated.sh).
if has nvcc && nvcc --help | grep -q -e --Ofast-compile; then export NVCC_APPEND_FLAGS=--Ofast-compile=max; fi
lines "With an NVIDIA GPU" "$one_file"
unset NVCC_APPEND_FLAGS

# ---- installed, then moved away from where it was built
install_tree() {
    meson setup "$scratch/build" "$root" --prefix "$scratch/built" --libdir lib -Dpkgconfig.relocatable=true \
        -Dcuda=disabled -Dtests=disabled -Dtools=disabled -Dexamples=disabled -Dbench=disabled &&
    meson install -C "$scratch/build" &&
    mv "$scratch/built" "$scratch/installed"
}
try "meson install" install_tree
config=$(find "$scratch/installed" -name convt3d.pc)
libdir=$(dirname "$(dirname "$config")")
try "the installed header is the one of the project" cmp "$root/convt3d.h" "$scratch/installed/include/convt3d.h"

# Every exported name is public: convt3d or convt3d_..., and no convt3d__...
exports_are_public() {
    nm -D --defined-only "$libdir/libconvt3d.so" | awk '{ print $NF }' | sed 's/@.*//' >"$scratch/exports"
    cat "$scratch/exports"
    grep -qx convt3d "$scratch/exports" && ! grep -qvE '^convt3d(_[a-z].*)?$' "$scratch/exports"
}
exports="the shared library exports the interface alone"
if has nm && [ -e "$libdir/libconvt3d.so" ]; then try "$exports" exports_are_public
else skip "$exports" "no nm, or no shared library"; fi

export LD_LIBRARY_PATH="$libdir" PKG_CONFIG_PATH="$libdir/pkgconfig"
block "Installed, with pkg-config" sh >"$scratch/lines"
while IFS= read -r line; do
    if has pkg-config; then
        try "README: $line" run_line "$scratch" "$line" app
    else skip "README: $line" "no pkg-config"; fi
done <"$scratch/lines"
test -s "$scratch/lines"; report $? "README has lines for pkg-config"

cmake_program() {                       # FOLDER TARGET
    mkdir -p "$1" && cp "$scratch/app.c" "$1" &&
    block "Installed, with CMake" cmake | sed "s/convt3d::convt3d)/$2)/" >"$1/CMakeLists.txt" &&
    cmake -S "$1" -B "$1/build" -DCMAKE_PREFIX_PATH="$scratch/installed" && cmake --build "$1/build" && "$1/build/app"
}
cmake_refuses() {                       # VERSION: a later series is not satisfied by this one
    mkdir -p "$scratch/later" && cp "$scratch/app.c" "$scratch/later" &&
    block "Installed, with CMake" cmake | sed "s/convt3d 0.1/convt3d $1/" >"$scratch/later/CMakeLists.txt" &&
    ! cmake -S "$scratch/later" -B "$scratch/later/build" -DCMAKE_PREFIX_PATH="$scratch/installed"
}
for target in convt3d::convt3d convt3d::convt3d_static convt3d::convt3d_shared; do
    if has cmake; then try "README: CMake, $target" cmake_program "$scratch/${target#*::}" "$target"
    else skip "README: CMake, $target" "no cmake"; fi
done
if has cmake; then try "CMake: a later version is not found" cmake_refuses 9.9
else skip "CMake: a later version is not found" "no cmake"; fi
unset LD_LIBRARY_PATH PKG_CONFIG_PATH

# ---- a subproject: nothing but the library is built
subproject_program() {
    mkdir -p "$scratch/parent/subprojects" && cp "$scratch/app.c" "$scratch/parent" &&
    ln -s "$root" "$scratch/parent/subprojects/convt3d" &&
    block "As a Meson subproject" meson >"$scratch/parent/meson.build" &&
    meson setup "$scratch/parent/build" "$scratch/parent" && meson compile -C "$scratch/parent/build" &&
    "$scratch/parent/build/app"
}
subproject_is_lean() {
    meson introspect --targets "$scratch/parent/build" | tr ',' '\n' | sed -n 's/.*"name": "\([^"]*\)".*/\1/p' |
        sort -u | tee "$scratch/targets"
    printf 'app\nconvt3d\n' | cmp - "$scratch/targets"
}
try "README: Meson subproject" subproject_program
try "a subproject builds the library alone" subproject_is_lean

echo "1..$tests"
