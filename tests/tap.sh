# tap.sh - TAP for the script tests. Sourced with the source root as $1; gives $root, $work (removed at the end),
# try, skip, have and done_testing.

root=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
count=0
failed=0

# try NAME COMMAND...: one test point; the output is shown only when it fails.
try() {
    name=$1
    shift
    count=$((count + 1))
    if "$@" >"$work/output" 2>&1; then
        echo "ok $count - $name"
    else
        echo "not ok $count - $name"
        failed=1
        echo "# $*"
        tail -n 60 "$work/output" | sed 's/^/# /'
    fi
}

skip() {
    count=$((count + 1))
    echo "ok $count - $1 # SKIP $2"
}

have() { command -v "$1" >/dev/null 2>&1; }

done_testing() {
    echo "1..$count"
    exit $failed
}
