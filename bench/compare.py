#!/usr/bin/env python3
"""Sets results of `convt3d bench --json` beside those of a peer as Markdown tables; plot.py reads through it.

usage: compare.py OURS.json ... [--peer PEER.json ...] [--overview] [--out FILE.md]

Without --peer the peer is the one inside our results (`convt3d bench --peer`), whose weights are prepacked as ours are
for that comparison. Of several times of one row the best counts. Speed-up is the peer's time over ours. --overview gives
one table in place of one for each mode and layout, as docs/performance.md has it.
"""
import argparse
import json
import math
import sys


def mode_of(row):
    return "tf32" if row["math"] == "tf32" and row["dtype"] == "f32" else row["dtype"]


def key_of(row):
    return row["name"], row["device"], mode_of(row), row["layout"], row["pass"]


def load(paths):
    """(meta, ceilings, {key: row}) of all files together; the first file's meta and ceilings."""
    meta, ceilings, rows = {}, {}, {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        meta, ceilings = meta or data["meta"], ceilings or data.get("ceilings", {})
        for row in data["results"]:
            if row["dtype"] != "f32" and row["math"] == "tf32":
                continue                # means nothing there
            key = key_of(row)
            if key not in rows or row["ms"] < rows[key]["ms"]:
                rows[key] = row
    return meta, ceilings, rows


def peer_inside(meta, rows):
    """The peer that `convt3d bench --peer` timed, as results of its own."""
    inside = {key: dict(row, ms=row["peer_ms"], kernel=row["peer_how"])
              for key, row in rows.items() if "peer_ms" in row}
    return dict(meta, library=meta.get("peer", "peer"), version=""), inside


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def peer_time(peer, key, layouts, mode=None):
    """The peer's best time of this row in these layouts, or None; mode: another one than the row's."""
    keys = [(key[0], key[1], mode or key[2], layout, key[4]) for layout in layouts]
    return min((peer[key]["ms"] for key in keys if key in peer), default=None)


def bound(row, ceilings):
    """What the row's floor is made of: arithmetic, memory or launch."""
    if not ceilings:
        return "arithmetic"
    copy = row["gbps"] / ceilings["copy_gbps"]
    math_part = row["gflops"] / ceilings[f"{mode_of(row)}_gflops"]
    if max(copy, math_part) < 0.99 * row["fraction"]:
        return "launch"
    return "arithmetic" if math_part > copy else "memory"


def compared(ours, peer, packed):
    """Rows of (key, row, our ms, peer ms in our layout, peer ms in its best layout); where one is missing, None."""
    return [(key, row, row.get("packed_ms", row["ms"]) if packed else row["ms"], peer_time(peer, key, [key[3]]),
             peer_time(peer, key, ["ncdhw", "ndhwc"])) for key, row in ours.items()]


def text(value, form="{:.3f}"):
    return form.format(value) if value else "-"


def milliseconds(value):
    return text(value, "{:.4g}")


def section(title, rows, ceilings, peer):
    """One table: a device, mode and layout."""
    lines = [f"### {title}", "",
             "| workload | kernel | ms | packed ms | of floor | peer ms | speed-up | its best layout | speed-up |",
             "|---|---|---|---|---|---|---|---|---|"]
    for key, row, ours, same, best in rows:
        lines.append(f"| {key[0]} | {row['kernel']} | {milliseconds(row['ms'])} | {milliseconds(row.get('packed_ms'))} "
                     f"| {text(row['fraction'])} | {milliseconds(same)} | {text(same and same / ours, '{:.2f}')} "
                     f"| {milliseconds(best)} | {text(best and best / ours, '{:.2f}')} |")
    lines.append("")
    for name in ("all", "arithmetic", "memory", "launch"):
        parts = [row["fraction"] for _, row, *_ in rows if name in ("all", bound(row, ceilings))]
        if parts:
            which = "all" if name == "all" else "bound by " + name
            lines.append(f"- fraction of the floor, {which}, {len(parts)} rows: " + summary(parts))
    tf32 = [(row[2], peer_time(peer, row[0], ["ncdhw", "ndhwc"], "tf32")) for row in rows if row[0][2] == "f32"]
    for name, pairs in (("in the same layout", [(row[2], row[3]) for row in rows]),
                        ("in its best layout", [(row[2], row[4]) for row in rows]),
                        ("in its best layout with TF32 allowed", tf32)):
        ratios = [theirs / ours for ours, theirs in pairs if theirs]
        if ratios:
            lines.append(f"- speed-up over the peer {name}, {len(ratios)} rows: " + summary(ratios))
    return lines + [""]


def summary(values):
    return f"geometric mean {geometric_mean(values):.3f}, least {min(values):.3f}, most {max(values):.3f}."


def overview(rows, peer):
    """One table: a line for each workload, a column for each mode and layout, the peer's best times, and the means."""
    columns = list(dict.fromkeys((row[0][2], row[0][3]) for row in rows))
    modes = [mode for mode in dict.fromkeys(mode for mode, _ in columns) if any(key[2] == mode for key in peer)]
    cells = {(row[0][0], row[0][2], row[0][3]): row for row in rows}
    titles = [mode + (" NDHWC" if layout == "ndhwc" else "") for mode, layout in columns]
    lines = ["| workload | kernel in " + " | ".join([titles[0]] + titles + ["peer " + mode for mode in modes]) + " |",
             "|---" * (2 + len(columns) + len(modes)) + "|"]
    for name in dict.fromkeys(row[0][0] for row in rows):
        ours = [cells.get((name, *column)) for column in columns]
        key = next(row[0] for row in ours if row)
        theirs = [peer_time(peer, key, ["ncdhw", "ndhwc"], mode) for mode in modes]
        lines.append(f"| {name} | {ours[0][1]['kernel'] if ours[0] else '-'} | " + " | ".join(
            [f"{milliseconds(row[2])} ({row[1]['fraction']:.2f})" if row else "-" for row in ours] +
            [milliseconds(ms) for ms in theirs]) + " |")
    lines += ["", "| geometric mean | " + " | ".join(titles) + " |", "|---" * (1 + len(columns)) + "|"]
    parts = [[row for row in rows if (row[0][2], row[0][3]) == column] for column in columns]
    for title, value in (("of the floor", lambda row: row[1]["fraction"]),
                         ("times the peer's best layout", lambda row: row[4] and row[4] / row[2])):
        values = [[value(row) for row in part if value(row)] for part in parts]
        lines.append(f"| {title} | " + " | ".join(f"{geometric_mean(v):.3f}" if v else "-" for v in values) + " |")
    return lines + [""]


def name_of(meta):
    parts = [f"{meta.get('library', '?')} {meta.get('version', '')}".strip()]
    parts += [f"{key} {meta[key]}" for key in ("cuda", "cudnn", "bias") if key in meta]
    parts += [meta.get("machine", "?"), f"{meta.get('threads', '?')} CPU threads", meta.get("date", "?")]
    return ", ".join(parts)


def report(ours, peer, packed, one_table):
    (our_meta, ceilings, our_rows), (peer_meta, peer_rows) = ours, peer
    lines = [f"- ours: {name_of(our_meta)}", f"- peer: {name_of(peer_meta)}",
             "- both with the weights packed beforehand" if packed else
             "- ours packs the weights inside the call; \"packed ms\" is without",
             "- ceilings: " + ", ".join(f"{key} {value:.5g}" if isinstance(value, float) else f"{value}"
                                        for key, value in ceilings.items()), ""]
    rows = compared(our_rows, peer_rows, packed)
    if one_table:
        return lines + overview(rows, peer_rows)
    for title in dict.fromkeys((key[1], key[2], key[3]) for key, *_ in rows):
        lines += section(", ".join(title), [row for row in rows if row[0][1:4] == title], ceilings, peer_rows)
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ours", nargs="+", help="JSON of convt3d bench")
    parser.add_argument("--peer", nargs="+", help="JSON of the peer")
    parser.add_argument("--overview", action="store_true", help="one table of all modes and layouts")
    parser.add_argument("--out", help="write there as well")
    args = parser.parse_args()
    ours = load(args.ours)
    if args.peer:
        peer_meta, _, peer_rows = load(args.peer)
    else:
        peer_meta, peer_rows = peer_inside(ours[0], ours[2])
    if not any(key in peer_rows for key in ours[2]):
        sys.exit("compare.py: the two sides have no row in common")
    lines = report(ours, (peer_meta, peer_rows), packed=not args.peer, one_table=args.overview)
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
