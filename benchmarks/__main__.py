"""Prints every table, one script after the other.

Run `python -m benchmarks [--quick] [--cora FOLDER] [--mnist FOLDER] [--out FOLDER]` in the folder
above this one. With `--quick`, small versions in 5 minutes on two cores: they show that
everything runs, and no more than a hint of the figures. Without it, the tables of RESULTS.md, in
some hours; those on Cora and MNIST where their folders are given, mini-batch TIAM's where there is
a folder for its results too. Each script runs in a process of its own and can be run alone:
`python -m benchmarks.update_cost --help`.

The same steps for pytest-benchmark: `pytest benchmarks --benchmark-enable --benchmark-only -n0`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path


def commands(arguments: argparse.Namespace) -> list[list[str]]:
    """The scripts with their arguments."""
    quick = ["--quick"] if arguments.quick else []
    picture = ["--out", str(arguments.out / "scaling.png")] if arguments.out else []
    race = ["--out", str(arguments.out / "layerwise_race")] if arguments.out else []
    folders = []
    for name, folder in (("cora", arguments.cora), ("mnist", arguments.mnist)):
        folders += [f"--{name}", str(folder)] if folder else []
    found = [
        ["update_cost", *quick],
        ["compile_time", *quick],
        ["runge_kutta", *quick],
        ["tiam_cost", *quick],
        ["sweeps", *quick],
        ["scaling", *(["update", "sweep"] if quick else []), *quick, *picture],
        ["time_to_accuracy", *quick, *folders],
        ["tiam", *quick, *folders],
        ["layerwise_race", *quick, *folders, *race],
    ]
    if arguments.mnist and arguments.out and not arguments.quick:
        data = ["--data", str(arguments.mnist), "--out", str(arguments.out / "stochastic_tiam")]
        found.append(["stochastic_tiam", *data])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Prints every table.")
    parser.add_argument("--quick", action="store_true", help="small versions, in 5 minutes")
    parser.add_argument("--cora", type=Path, help="folder with the Planetoid files of Cora")
    parser.add_argument("--mnist", type=Path, help="folder with MNIST's files")
    parser.add_argument("--out", type=Path, help="folder for pictures and results")
    arguments = parser.parse_args()
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for command in commands(arguments):
        print(f"## python -m benchmarks.{' '.join(command)}\n", flush=True)
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{command[0]}", *command[1:]])
        if done.returncode:
            failed.append(command[0])
        print(f"\n{time.perf_counter() - began:.0f} s\n", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
