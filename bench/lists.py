#!/usr/bin/env python3
"""What a list costs: sets results of `convt3d bench --then LIST --json` beside the same rows without a list.

usage: lists.py PLAIN.json LIST.json ... [--layout ncdhw]

One table for each mode: a line for each workload, with the time alone and, for each list, its part of that; below, the
geometric means of all rows and of those that memory bounds.
"""
import argparse
import sys

import compare


def table(mode, plain, lists, ceilings):
    lines = [f"### {mode}", "", "| workload | kernel | ms alone | " + " | ".join(lists) + " |",
             "|---" * (3 + len(lists)) + "|"]
    ratios = {"all": {then: [] for then in lists}, "memory": {then: [] for then in lists}}
    for name, row in plain.items():
        cells = []
        for then, rows in lists.items():
            ratio = rows[name]["ms"] / row["ms"] if name in rows else None
            cells.append(compare.text(ratio))
            for which in ("all", compare.bound(row, ceilings)):
                if ratio and which in ratios:
                    ratios[which][then].append(ratio)
        lines.append(f"| {name} | {row['kernel']} | {compare.milliseconds(row['ms'])} | " + " | ".join(cells) + " |")
    for which, values in ratios.items():
        means = [compare.text(compare.geometric_mean(v)) if v else "-" for v in values.values()]
        lines.append(f"| geometric mean, {which} | | | " + " | ".join(means) + " |")
    return lines + [""]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plain", help="JSON of convt3d bench without a list")
    parser.add_argument("lists", nargs="+", help="JSON of the same with one")
    parser.add_argument("--layout", choices=["ncdhw", "ndhwc"], default="ncdhw")
    args = parser.parse_args()
    _, ceilings, plain = compare.load([args.plain])
    lists = {}
    for path in args.lists:
        _, _, rows = compare.load([path])
        for key, row in rows.items():
            lists.setdefault(row.get("then", "none"), {})[key] = row
    if not any(key in rows for key in plain for rows in lists.values()):
        sys.exit("lists.py: no row of the lists is one of the plain rows")
    for mode in dict.fromkeys(key[2] for key in plain):
        def part(rows):
            return {key[0]: row for key, row in rows.items() if key[2] == mode and key[3] == args.layout}
        print("\n".join(table(mode, part(plain), {then: part(rows) for then, rows in lists.items()}, ceilings)))


if __name__ == "__main__":
    main()
