"""Draws the README's picture: stability regions, and learning curves of a finished comparison.

tritia compare --optimizers sgd,momentum,adam,difference4,tiam,stochastic_tiam --out FOLDER
python -m benchmarks.overview_figure FOLDER notebooks/figures/overview.png
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import tritia


def curves(folder: Path, column: str) -> dict[str, np.ndarray]:
    """A column of metrics.csv by optimizer: (seeds, epochs)."""
    found: dict[str, dict[str, list[float]]] = {}
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            seeds = found.setdefault(row["optimizer"], {})
            seeds.setdefault(row["seed"], []).append(float(row[column] or "nan"))
    return {name: np.array(list(seeds.values())) for name, seeds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overview_figure")
    parser.add_argument("comparison", type=Path, help="folder of a finished tritia compare")
    parser.add_argument("picture", type=Path, help="PNG to write")
    arguments = parser.parse_args()

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), dpi=130, layout="constrained")
    schemes = tritia.adams_bashforth_scheme(1), tritia.TABLEAUS["rk4"]
    tritia.plot_stability_region(*schemes, tritia.difference_scheme(order=2, steps=5), ax=left)

    for name, values in curves(arguments.comparison, "test_metric").items():
        epochs = np.arange(values.shape[1])
        lower, upper = np.percentile(values, (25, 75), axis=0)
        (line,) = right.plot(epochs, np.median(values, axis=0), label=name, linewidth=1.5)
        right.fill_between(epochs, lower, upper, color=line.get_color(), alpha=0.15, linewidth=0)
    right.set(xlabel="epoch", ylabel="test accuracy", ylim=(0.88, 1.0))
    right.set_title("digits: median and quartiles of 5 seeds")
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(arguments.picture)


if __name__ == "__main__":
    main()
