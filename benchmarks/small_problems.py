"""The estimators of `tritia.sklearn` and scikit-learn's MLPs on small problems, all at defaults.

Run `python -m benchmarks.small_problems [--seeds 3] [--restarts]`. It prints test accuracy, or R2,
averaged over seeds with the least one, on problems where full-batch TIAM without restarts is known
to do badly (curved functions of few inputs), on diabetes, on random tables with fewer rows than
columns (120 x 500 and 100 x 200 to train on), and on columns with heavy tails. The MLPs stand
behind a StandardScaler; for MLPRegressor the targets are standardised too. With `--restarts` it
prints instead the test accuracy of `tritia.tiam` by its restart, 50 updates, hidden layers of 100.
"""

from __future__ import annotations

import argparse
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import (
    load_diabetes,
    load_digits,
    make_classification,
    make_friedman1,
    make_moons,
    make_regression,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tritia
from benchmarks.families import outputs
from benchmarks.tiam_cost import tiam_step
from tritia.sklearn import TiamClassifier, TiamRegressor

CLASSES = ("moons", "spirals", "parity", "five classes", "120 x 500")
NUMBERS = ("sine", "friedman1", "diabetes", "100 x 200", "lognormal", "Student's t")


def problem(name: str, seed: int) -> Any:
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
    if name == "120 x 500":
        return make_classification(172, 500, n_informative=20, random_state=seed)
    if name == "100 x 200":
        return make_regression(143, 200, n_informative=20, noise=10.0, random_state=seed)
    if name == "sine":
        x = random.uniform(-3, 3, (1000, 1))
        return x, np.sin(4 * x[:, 0]) + 0.1 * random.randn(1000)
    if name in ("lognormal", "Student's t"):
        normal = random.randn(1000, 8)
        x = np.exp(normal) if name == "lognormal" else random.standard_t(3, (1000, 8))
        of = normal if name == "lognormal" else x
        return x, np.tanh(of[:, 0]) * of[:, 1].clip(-3, 3) + 0.1 * random.randn(1000)
    if name == "friedman1":
        return make_friedman1(1000, noise=1.0, random_state=seed)
    return (load_digits if name == "digits" else load_diabetes)(return_X_y=True)


def models(name: str, seed: int) -> dict[str, Any]:
    if name in CLASSES:
        perceptron = make_pipeline(StandardScaler(), MLPClassifier(random_state=seed))
        return {"tritia.sklearn": TiamClassifier(random_state=seed), "MLP": perceptron}
    perceptron = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), MLPRegressor(random_state=seed)),
        transformer=StandardScaler(),
    )
    return {"tritia.sklearn": TiamRegressor(random_state=seed), "MLP": perceptron}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def outputs_of_tiam(
    depth: int,
    classes: int,
    restart: Any,
    x: Any,
    y: Any,
    test_x: Any,
    key: Any,
    mu: Any,
    correct: Any,
) -> jax.Array:
    """What a network trained by 50 updates says of the test rows."""
    sizes = (x.shape[1], *(100,) * (depth - 1), classes)
    params = [
        {"kernel": jax.random.normal(k, (i, o)) * (2 / i) ** 0.5, "bias": jnp.zeros(o)}
        for k, i, o in zip(jax.random.split(key, depth), sizes[:-1], sizes[1:], strict=True)
    ]
    inertia = tritia.Inertia(0.0, 0.0, correct)
    solver = tritia.tiam(len(x), restart=restart, mu=mu, inertia=inertia)

    step, start = tiam_step(solver), (params, solver.init(params))
    (params, _), _ = jax.lax.scan(lambda at, _: (step(*at, x, y), None), start, length=50)
    return outputs(params, test_x)


def print_restarts(seeds: int) -> None:
    rules = (None, "guarded", "always")
    heads = " | ".join(f"restart={rule!r}" for rule in rules)
    print(f"| problem | layers | mu, correct | {heads} |\n| --- | --- | --- | --- | --- | --- |")
    for name in ("moons", "spirals", "digits"):
        for depth in (3, 10):
            for mu, correct in ((0.1, 0.3), (0.3, 0.6)):
                means = []
                for rule in rules:
                    scores = []
                    for seed in range(seeds):
                        x, y = problem(name, seed)
                        train_x, test_x, train_y, test_y = train_test_split(
                            x, y, test_size=0.3, random_state=seed
                        )
                        scaler = StandardScaler().fit(train_x)
                        rows = (jnp.asarray(scaler.transform(a)) for a in (train_x, test_x))
                        inputs, test_inputs = rows
                        outputs = outputs_of_tiam(
                            depth,
                            int(y.max()) + 1,
                            rule,
                            inputs,
                            train_y,
                            test_inputs,
                            jax.random.key(seed),
                            mu,
                            correct,
                        )
                        scores.append(np.mean(np.argmax(outputs, axis=1) == test_y))
                    means.append(f"{np.mean(scores):.3f}")
                print(f"| {name} | {depth} | {mu}, {correct} | {' | '.join(means)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.small_problems", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--restarts", action="store_true")
    arguments = parser.parse_args()
    seeds = arguments.seeds
    if arguments.restarts:
        print_restarts(seeds)
        return
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
