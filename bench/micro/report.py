#!/usr/bin/env python3
"""Turns criterion's estimates into a table: median of a round, the same per element, its 95 % interval.

report.py [--newer-than UNIXTIME] [--cpus LIST] [--load LOAD] target/criterion > micro.md
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys


def span(nanoseconds):
    """A time with three digits and its unit."""
    for unit, factor in (("ns", 1), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)):
        if nanoseconds < 999.5 * factor or unit == "s":
            value = nanoseconds / factor
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def output(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def rows(folder, newer_than):
    for file in folder.glob("**/new/benchmark.json"):
        if file.stat().st_mtime < newer_than:
            continue  # of a bench that is no more
        bench = json.loads(file.read_text())
        median = json.loads(file.with_name("estimates.json").read_text())["median"]
        elements = (bench["throughput"] or {}).get("Elements", 1)
        interval = median["confidence_interval"]
        yield (
            bench["group_id"],
            file.stat().st_mtime,
            "/".join(part for part in (bench["function_id"], bench["value_str"]) if part),
            elements,
            median["point_estimate"],
            interval["lower_bound"],
            interval["upper_bound"],
        )


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=pathlib.Path)
    options.add_argument("--newer-than", type=float, default=0)
    options.add_argument("--cpus", default="all")
    options.add_argument("--load", default="unknown")
    options = options.parse_args()
    # As they were run: by group, in order of time.
    found = sorted(rows(options.folder, options.newer_than), key=lambda row: row[1])
    if not found:
        sys.exit(f"report: no figures in {options.folder}; run make micro")
    cpu = next(line.split(": ")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    commit = output("git", "rev-parse", "--short", "HEAD")
    dirty = "-dirty" if output("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/reports") else ""
    print("# Criterion benches: medians\n")
    print(
        f"`make micro` at commit {commit}{dirty}, on core {options.cpus} of {os.cpu_count()} ({cpu}), "
        f"Linux {os.uname().release}, {output('rustc', '--version').rsplit(' (', 1)[0]}; "
        f"load average before {options.load} (near 0, or the machine had other work and the figures are too high).\n"
        "One thread, no kernel, where the bench does not say otherwise."
    )
    group = None
    for name, _, bench, elements, median, lower, upper in found:
        if name != group:
            group = name
            print(f"\n## {name}\n\n| bench | round | elements | per element | 95 % of the round's median |")
            print("| --- | ---: | ---: | ---: | --- |")
        interval = f"{span(lower)} to {span(upper)}"
        print(f"| {bench} | {span(median)} | {elements:,} | **{span(median / elements)}** | {interval} |")


if __name__ == "__main__":
    main()
