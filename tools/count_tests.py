"""Counts every single check of a Meson test run, prints "N passed, N failed, N skipped", exits 1 unless all is well.

    count_tests.py testlog.json STATUS        STATUS: the exit status of "meson test"

A program that speaks TAP counts once for each of its "ok" and "not ok" lines, and once more as failed when it broke
in a way that no line shows (a crash, a time-out, a plan not kept). Any other program counts once.
"""
import json
import os
import re
import sys

TAP_PLAN = re.compile(r"^1\.\.\d+", re.M)
TAP_LINE = re.compile(r"^(not )?ok\b([^#\n]*)(#.*)?$", re.M)


def count(test):
    passed = failed = skipped = 0
    output = test.get("stdout", "")
    lines = TAP_LINE.findall(output)
    if TAP_PLAN.search(output) and (lines or test["result"] == "SKIP"):
        for bad, _, directive in lines:
            if re.match(r"#\s*skip", directive, re.I):
                skipped += 1
            elif bad and not re.match(r"#\s*todo", directive, re.I):
                failed += 1
            else:
                passed += 1
        if not lines:
            skipped += 1
        if test["result"] not in ("OK", "SKIP", "EXPECTEDFAIL") and not failed:
            failed += 1
    elif test["result"] in ("OK", "EXPECTEDFAIL"):
        passed += 1
    elif test["result"] == "SKIP":
        skipped += 1
    else:
        failed += 1
    return passed, failed, skipped


def main():
    path, status = sys.argv[1], int(sys.argv[2])
    tests = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as log:
            tests = [json.loads(line) for line in log if line.strip()]
    passed, failed, skipped = (sum(column) for column in zip((0, 0, 0), *map(count, tests)))
    if status != 0 and failed == 0:
        failed += 1                                 # "meson test" itself broke
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if passed and not failed else 1


sys.exit(main())
