r"""The layer-wise step against Adam, AdamW, SGD with momentum, Muon, PSGD and K-FAC.

    python -m benchmarks.layerwise_race TASK... [--mnist FOLDER] [--cora FOLDER] [--out FOLDER]

Every method tries 8 settings with a seed that is not raced, for a third of the steps, and keeps the
one that is best on validation rows at the end. Then all methods train with each seed in turn, on
validation rows too where the task says so, and test rows judge them. The learning rate falls to 0
by half a cosine. Each is judged at an average of its iterates, u <- e u + (1 - e) w with
e = min(0.995, t / (t + 10)), and at the last iterate; all of them pay for the average.

CPU seconds are of all threads and of training alone, without compilation and judging. Runs at equal
seconds are runs of their own: a method that takes longer for a step gets as many fewer steps, to
the next round, over which its learning rate falls.

Finished runs stay in the folder given by --out, and the same command goes on where it was. Methods
whose package is missing (rollfast for psgd_kron, kfac-jax for kfac) are left out, unless their runs
are in that folder already; so they can be made in an environment of their own.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.layerwise_race import results, tables
from benchmarks.layerwise_race.data import Folders
from benchmarks.layerwise_race.methods import METHODS
from benchmarks.layerwise_race.tasks import TASKS
from benchmarks.timing import header


def main() -> None:
    """Races and prints a table for each task."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", help=f"any of {', '.join(TASKS)}; default: all at hand")
    parser.add_argument("--methods", default=",".join(METHODS), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder of finished runs; default: forgotten")
    parser.add_argument("--mnist", type=Path, help="folder with MNIST's files")
    parser.add_argument("--cora", type=Path, help="folder with the Planetoid files of Cora")
    parser.add_argument("--tables", action="store_true", help="train nothing, print what is there")
    parser.add_argument("--equal-seconds", action="store_true", help="also runs at equal seconds")
    parser.add_argument("--quick", action="store_true", help="wine, 2 seeds")
    arguments = parser.parse_args()
    folders = Folders(arguments.mnist, arguments.cora)
    at_hand = [name for name, task in TASKS.items() if folders.has(task.folder)]
    names, methods = arguments.tasks or at_hand, arguments.methods.split(",")
    if arguments.quick:
        names, arguments.seeds = ["wine"], 2
    for given, known in ((names, TASKS), (methods, METHODS)):
        if unknown := set(given) - set(known):
            parser.error(f"{', '.join(unknown)}: not among {', '.join(known)}")
    with tempfile.TemporaryDirectory() as forgotten:
        out = arguments.out or Path(forgotten)
        print(header(), end="\n\n")
        for name in names:
            race = results.Race(name, folders, out, train=not arguments.tables)
            entries = race.run(methods, arguments.seeds)
            if arguments.equal_seconds:
                race.run_equal_seconds(entries, arguments.seeds)
            race.only_read()
            tables.tuning(race, methods)
            tables.finals(race, entries, arguments.seeds)
            tables.goals(race, entries, arguments.seeds)


if __name__ == "__main__":
    main()
