#!/bin/sh
# Promise: a program gets convt3d with the compiler lines and build files of README.md, exactly as they stand there:
# the header alone, pkg-config, CMake, and a Meson subproject. Speaks TAP.
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

# ---- the header alone: no file but those that the README names
alone=$scratch/alone
mkdir -p "$alone/examples"
cp "$root/convt3d.h" "$root/convt3d.c" "$alone"
cp "$root/examples/quickstart.c" "$alone/examples"
sed 's/<convt3d.h>/"convt3d.h"/' "$scratch/app.c" >"$alone/app.c"
block "The header alone" sh >"$scratch/lines"
while IFS= read -r line; do
    if has "${line%% *}"; then try "README: $line" run_line "$alone" "$line" "${line##* }"
    else skip "README: $line" "no ${line%% *}"; fi
done <"$scratch/lines"
test -s "$scratch/lines"; report $? "README has lines for the header alone"

# ---- the fast CPU path by hand
cp -r "$root/cpu" "$alone"
block "With the fast CPU path" sh >"$scratch/lines"
while IFS= read -r line; do try "README: $line" run_line "$alone" "$line" app; done <"$scratch/lines"
test -s "$scratch/lines"; report $? "README has a line for the fast CPU path"

# ---- the GPU by hand: compiled and linked here, and run where the program's problem is on the CPU
by_hand=$scratch/by_hand
mkdir -p "$by_hand"
cp -r "$root/convt3d.h" "$root/convt3d.c" "$root/cuda" "$alone/app.c" "$by_hand"
block "With an NVIDIA GPU" sh >"$scratch/lines"
while IFS= read -r line; do
    if ! has nvcc; then skip "README: $line" "no nvcc"
    else case $line in
        *" -c "*) try "README: $line" sh -ec "cd '$by_hand' && $line" ;;
        *) try "README: $line" run_line "$by_hand" "$line" app ;;
    esac; fi
done <"$scratch/lines"
test "$(wc -l <"$scratch/lines")" -eq 2; report $? "README has two lines for the GPU"

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
