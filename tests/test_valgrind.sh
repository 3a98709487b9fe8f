#!/bin/sh
# Promise: no use of uninitialised memory, no stray access, no leak, by valgrind's account.
# usage: test_valgrind.sh SOURCE_ROOT
. "$(dirname "$0")/tap.sh"

build() {
    for test in random plan; do
        gcc -std=c99 -O1 -g -I"$root" "$root/tests/test_$test.c" "$root/convt3d.c" -o "$work/$test" -lm || return 1
    done
}

memcheck() { valgrind --quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite "$@"; }

if ! have gcc || ! have valgrind; then
    skip "valgrind" "gcc or valgrind is not installed"
else
    try "the tests build" build
    try "random problems" memcheck "$work/random" 31 100
    try "plans" memcheck "$work/plan"
fi
done_testing
