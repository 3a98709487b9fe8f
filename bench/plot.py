#!/usr/bin/env python3
"""Draws results of `convt3d bench --json` and of a peer as SVG, read as compare.py reads them. Wants matplotlib.

usage: plot.py OURS.json ... [--peer PEER.json ...] [--layout ncdhw] [--out FOLDER]

speedup-MODE.svg    the peer's best time over ours, workload by workload
roofline-MODE.svg   both in FLOP/s over FLOPs per byte, under the ceilings of our run
"""
import argparse
import pathlib
import sys

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt

import compare

OURS, PEER, EDGE = "#1f5fa8", "#d07a1e", "#555555"
TITLES = {"f32": "f32", "tf32": "f32 with TF32 allowed", "f16": "f16", "bf16": "bf16", "f64": "f64"}


def save(figure, path):
    figure.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    print(path)


def plain(axis):
    """0.5, 1, 2 ... in place of powers of ten."""
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def speedup(rows, caption, path):
    """Longest bar on top. Rows that the peer does not have are left out."""
    pairs = sorted((best / ours, key[0]) for key, _, ours, _, best in rows if best)
    if not pairs:
        return
    ratios = [ratio for ratio, _ in pairs]
    figure, axes = plt.subplots(figsize=(7.5, 0.24 * len(pairs) + 1.2))
    axes.barh(range(len(pairs)), [ratio - 1 for ratio in ratios], left=1, height=0.7,
              color=[OURS if ratio >= 1 else PEER for ratio in ratios])
    axes.set_xscale("log")
    axes.set_xlim(min(0.8, 0.9 * min(ratios)), 1.35 * max(1, max(ratios)))
    plain(axes.xaxis)
    axes.set_yticks(range(len(pairs)))
    axes.set_yticklabels([name for _, name in pairs], fontsize=8)
    axes.set_ylim(-0.6, len(pairs) - 0.4)
    axes.axvline(1, color=EDGE, linewidth=0.8)
    mean = compare.geometric_mean(ratios)
    axes.axvline(mean, color=EDGE, linewidth=0.8, linestyle="--")
    for at, ratio in enumerate(ratios):
        axes.text(max(ratio, 1) * 1.03, at, f"{ratio:.3g}", va="center", fontsize=7,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axes.set_xlabel(f"times as fast as the peer (dashed: geometric mean, {mean:.3g})", fontsize=8)
    axes.set_title(caption, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    save(figure, path)


def roofline(rows, ceilings, mode, caption, path):
    if not ceilings:
        return
    unit, scale = ("TFLOP/s", 1e-3) if ceilings[f"{mode}_gflops"] > 2000 else ("GFLOP/s", 1)
    copy, peak = scale * ceilings["copy_gbps"], scale * ceilings[f"{mode}_gflops"]
    points = [(row["gflops"] / row["gbps"], scale * row["gflops"] * row["ms"] / ours,
               best and scale * row["gflops"] * row["ms"] / best)
              for _, row, ours, _, best in rows if row["gbps"] > 0]
    if not points:
        return
    low, high = 0.7 * min(point[0] for point in points), 1.5 * max(max(point[0] for point in points), peak / copy)
    figure, axes = plt.subplots(figsize=(6.5, 4.5))
    axes.plot([low, peak / copy, high], [low * copy, peak, peak], color=EDGE, linewidth=1.2)
    for intensity, ours, theirs in points:
        if theirs:
            axes.plot([intensity, intensity], [theirs, ours], color="#cccccc", linewidth=0.8, zorder=1)
    axes.plot([point[0] for point in points], [point[1] for point in points], "o", color=OURS, markersize=5,
              label="convt3d")
    theirs = [(point[0], point[2]) for point in points if point[2]]
    if theirs:
        axes.plot([x for x, _ in theirs], [y for _, y in theirs], "^", color=PEER, markersize=5, label="peer")
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain(axes.xaxis)
    plain(axes.yaxis)
    axes.set_xlim(low, high)
    axes.set_xlabel("useful FLOPs per byte of x, w and y", fontsize=8)
    axes.set_ylabel(unit, fontsize=8)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.set_title(caption, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ours", nargs="+", help="JSON of convt3d bench")
    parser.add_argument("--peer", nargs="+", help="JSON of the peer; default: the one inside ours")
    parser.add_argument("--layout", choices=["ncdhw", "ndhwc"], default="ncdhw", help="of ours; the peer's is its best")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."), help="folder; default this one")
    args = parser.parse_args()
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "convt3d"         # the same file from the same data
    meta, ceilings, ours = compare.load(args.ours)
    if args.peer:
        peer_meta, _, peer = compare.load(args.peer)
    else:
        peer_meta, peer = compare.peer_inside(meta, ours)
    rows = compare.compared({key: row for key, row in ours.items() if key[3] == args.layout}, peer, not args.peer)
    if not rows:
        sys.exit(f"plot.py: no row in {args.layout}")
    args.out.mkdir(parents=True, exist_ok=True)
    against = f"{peer_meta.get('library', 'peer')} {peer_meta.get('version', '')}".strip()
    for mode in dict.fromkeys(key[2] for key, *_ in rows):
        part = [row for row in rows if row[0][2] == mode]
        machine = meta.get("machine", "").split(",")[0]
        caption = f"convt3d and {against}, {TITLES[mode]}, {args.layout.upper()}, {machine}"
        speedup(part, caption, args.out / f"speedup-{mode}.svg")
        roofline(part, ceilings, mode, caption, args.out / f"roofline-{mode}.svg")


if __name__ == "__main__":
    main()
