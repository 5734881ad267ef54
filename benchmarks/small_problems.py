"""The estimators of `tritia.sklearn` and scikit-learn's MLPs on small problems, all at defaults.

Run `python -m benchmarks.small_problems [--seeds 3]`. It prints test accuracy, or R2, averaged over
seeds with the least one, on problems where full-batch TIAM without restarts is known to do badly
(curved functions of few inputs), and on diabetes. The MLPs stand behind a StandardScaler; for
MLPRegressor the targets are standardised too.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, make_classification, make_friedman1, make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tritia.sklearn import TiamClassifier, TiamRegressor

CLASSES = ("moons", "spirals", "parity", "five classes")
NUMBERS = ("sine", "friedman1", "diabetes")


def problem(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(seed)
    if name == "moons":
        return make_moons(1000, noise=0.15, random_state=seed)
    if name == "spirals":
        angle, arm = np.sqrt(random.rand(1000)) * 3 * np.pi, random.randint(0, 2, 1000)
        turned = angle + np.pi * arm
        spiral = np.stack([angle * np.cos(turned), angle * np.sin(turned)], axis=1)
        return spiral + 0.3 * random.randn(1000, 2), arm
    if name == "parity":
        x = random.randint(0, 2, (1000, 6))
        return x + 0.1 * random.randn(1000, 6), x[:, :4].sum(axis=1) % 2
    if name == "five classes":
        return make_classification(1000, 20, n_informative=8, n_classes=5, random_state=seed)
    if name == "sine":
        x = random.uniform(-3, 3, (1000, 1))
        return x, np.sin(4 * x[:, 0]) + 0.1 * random.randn(1000)
    if name == "friedman1":
        return make_friedman1(1000, noise=1.0, random_state=seed)
    return load_diabetes(return_X_y=True)


def models(name: str, seed: int) -> dict[str, Any]:
    if name in CLASSES:
        perceptron = make_pipeline(StandardScaler(), MLPClassifier(random_state=seed))
        return {"tritia.sklearn": TiamClassifier(random_state=seed), "MLP": perceptron}
    perceptron = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), MLPRegressor(random_state=seed)),
        transformer=StandardScaler(),
    )
    return {"tritia.sklearn": TiamRegressor(random_state=seed), "MLP": perceptron}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.small_problems", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    print("| problem | measure | tritia.sklearn (least) | MLP (least) |\n| --- | --- | --- | --- |")
    for name in (*CLASSES, *NUMBERS):
        scores: dict[str, list[float]] = {}
        for seed in range(seeds):
            x, y = problem(name, seed)
            train_x, test_x, train_y, test_y = train_test_split(
                x, y, test_size=0.3, random_state=seed
            )
            for method, model in models(name, seed).items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    model.fit(train_x, train_y)
                scores.setdefault(method, []).append(model.score(test_x, test_y))
        shown = " | ".join(f"{np.mean(row):.3f} ({min(row):.3f})" for row in scores.values())
        measure = "accuracy" if name in CLASSES else "R2"
        print(f"| {name} | {measure} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
