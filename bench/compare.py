#!/usr/bin/env python3
"""Compares two results of `convt3d bench --json` or peer_torch.py, row by row: how much faster the first is."""
import argparse
import json
import math
import sys


def load(path):
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    rows = {}
    for row in data["results"]:
        key = tuple(row[part] for part in ("name", "dtype", "layout", "pass"))
        if key not in rows or row["ms"] < rows[key]["ms"]:
            rows[key] = row
    meta = data.get("meta", {})
    return rows, f"{meta.get('library', path)} {meta.get('version', '')}, {meta.get('threads', '?')} threads"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ours", help="JSON")
    parser.add_argument("peer", help="JSON")
    args = parser.parse_args()
    (ours, our_name), (peer, peer_name) = load(args.ours), load(args.peer)
    common = [key for key in ours if key in peer]
    if not common:
        sys.exit("compare.py: the two files have no row in common")
    print(f"ours: {our_name}; peer: {peer_name}; speed-up = peer ms / our ms")
    print(f"{'workload':24} dtype layout  {'our kernel':14} {'our ms':>11} {'peer ms':>11} {'speed-up':>9}")
    ratios = []
    for key in common:
        ratios.append(peer[key]["ms"] / ours[key]["ms"])
        print(f"{key[0]:24} {key[1]:5} {key[2]:6}  {ours[key]['kernel']:14} {ours[key]['ms']:11.3f} "
              f"{peer[key]['ms']:11.3f} {ratios[-1]:9.2f}")
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(f"{len(ratios)} rows, geometric mean {mean:.3f}, least {min(ratios):.3f}, most {max(ratios):.3f}")
    for key in sorted(set(ours) ^ set(peer)):
        print(f"only in {'ours' if key in ours else 'peer'}: {' '.join(key)}")


if __name__ == "__main__":
    main()
