"""Draws the README's picture: stability regions, and the learning curves of both usual comparisons.

tritia compare --out FOLDER
python -m benchmarks.overview_figure FOLDER notebooks/figures/overview.png
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import tritia
from tritia._compare.colours import styles

SHOWN = ("sgd", "momentum", "adam", "difference4", "tiam", "spectral_momentum")


def curves(folder: Path, column: str) -> dict[str, np.ndarray]:
    """A column of metrics.csv by optimizer: (seeds, epochs)."""
    found: dict[str, dict[str, list[float]]] = {}
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            seeds = found.setdefault(row["optimizer"], {})
            seeds.setdefault(row["seed"], []).append(float(row[column] or "nan"))
    return {name: np.array(list(seeds.values())) for name, seeds in found.items()}


def draw_curves(axes: Any, found: dict[str, np.ndarray]) -> None:
    """The median and the quartiles over seeds, in the colours of the comparison's own pictures."""
    for name, style in styles(SHOWN).items():
        lower, middle, upper = np.percentile(found[name], (25, 50, 75), axis=0)
        epochs = np.arange(len(middle))
        axes.plot(epochs, middle, label=name, linewidth=1.5, color=style.colour)
        axes.fill_between(epochs, lower, upper, color=style.colour, alpha=0.15, linewidth=0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overview_figure")
    parser.add_argument(
        "comparison", type=Path, help="folder of a finished tritia compare without --dataset"
    )
    parser.add_argument("picture", type=Path, help="PNG to write")
    arguments = parser.parse_args()

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), dpi=130, layout="constrained")
    left, *others = axes
    schemes = tritia.TABLEAUS["rk4"], tritia.MULTISTEP_SCHEMES["difference25"]
    tritia.MULTISTEP_SCHEMES["euler"].plot_stability_region(*schemes, ax=left)
    for right, name, title, limits in zip(
        others,
        ("digits", "few_digits"),
        ("digits, minibatches", "50 rows of digits, full batches"),
        ((0.88, 1.0), (0.6, 0.9)),
        strict=True,
    ):
        draw_curves(right, curves(arguments.comparison / name, "test_metric"))
        right.set(xlabel="epoch", title=title, ylim=limits, xticks=range(0, 21, 5))
        right.set_ylabel("test accuracy, median and quartiles of 5 seeds", fontsize="small")
    others[0].legend(fontsize="small")
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    figure.savefig(arguments.picture)


if __name__ == "__main__":
    main()
