"""64 settings at once against one after another; settings a second, by how many train at once.

    python -m benchmarks.sweeps [--quick]

The same work each time: an MLP on the digits, Adam with 64 learning rates, minibatches of 64, as
many steps, records and evaluations. Times are wall-clock and include compilation unless said
otherwise. "One after another" comes in two kinds: compiled anew for each setting, as a loop over
Python floats does, and compiled once for all, as a loop that passes the learning rate as an array.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
import sklearn.datasets
from flax import nnx

from benchmarks.timing import Seconds, header, in_turn, milliseconds, table
from tritia import sweeps


def problem_and_data(hidden):
    """An MLP on the digits, and the digits."""
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    x, y = np.asarray(pixels / 16.0, np.float32), np.asarray(labels, np.int32)
    data = {"training": {"x": x[:1400], "y": y[:1400]}, "held_out": {"x": x[1400:], "y": y[1400:]}}

    def model(rngs):
        return nnx.Sequential(
            nnx.Linear(64, hidden, rngs=rngs), nnx.relu, nnx.Linear(hidden, 10, rngs=rngs)
        )

    def loss(model, batch):
        outputs = model(batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"]).mean()

    return sweeps.nnx_problem(
        model, loss, evaluate=lambda model, data: loss(model, data["held_out"])
    ), data


def learning_rates(count: int) -> Any:
    """Settings with so many learning rates."""
    return sweeps.grid(learning_rate=list(np.geomspace(1e-4, 1e-1, count)))


def builder(hidden: int, steps: int) -> Callable[[], Any]:
    """Makes a sweep over Adam's learning rate, anew at each call."""
    problem, data = problem_and_data(hidden)

    def build():
        return sweeps.build(
            lambda setting: optax.adam(setting["learning_rate"]),
            problem,
            data,
            steps=steps,
            records=10,
            batch=sweeps.minibatches(64, rows=lambda data: data["training"]),
        )

    return build


def seconds_by_width(widths: Sequence[int], hidden: int, steps: int) -> list[Seconds]:
    """Seconds of a sweep over so many settings, compiled before, all sizes in turn."""
    compiled = builder(hidden, steps)()

    def call(count: int) -> Callable[[], Any]:
        settings = learning_rates(count)
        return lambda: compiled(settings).losses

    return list(in_turn({str(count): call(count) for count in widths}, 3).values())


def show_kinds(build: Callable[[], Any], settings: Any, steps: int, repeats: int) -> None:
    """At once, one after another, and compiled anew."""

    def at_once():
        return build()(settings).losses

    def one_after_another():
        sweep = build()
        return np.concatenate([sweep([setting]).losses for setting in settings])

    def compiled_anew():
        return np.concatenate([build()([setting]).losses for setting in settings])

    def seconds(function):
        jax.clear_caches()
        began = time.perf_counter()
        found = function()
        return time.perf_counter() - began, found

    times = {function: [] for function in (at_once, one_after_another, compiled_anew)}
    curves = {}
    for repeat in range(repeats):
        for function, found in times.items():
            if function is compiled_anew and repeat:  # minutes
                continue
            taken, curves[function] = seconds(function)
            found.append(taken)
    medians = {function: statistics.median(found) for function, found in times.items()}

    def kinds():
        for function, found in times.items():
            spread = f"{min(found):.2f}–{max(found):.2f}"
            ratio = medians[function] / medians[at_once]
            difference = np.max(np.abs(curves[function] / curves[at_once] - 1))
            name = function.__name__.replace("_", " ")
            yield [name, f"{medians[function]:.2f} ({spread})", f"{ratio:.1f}", f"{difference:.0e}"]

    print(f"{len(settings)} settings of {steps} steps, with compilation:\n")
    head = ["", "s, median (least and most)", "times at once", "curves differ by, at most"]
    table(head, kinds())


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--settings", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--at-once", type=int, nargs="*", default=[1, 4, 16, 64, 256])
    parser.add_argument(
        "--quick", action="store_true", help="3 settings, once, and fewer settings at once"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.settings, arguments.steps, arguments.repeats = 3, 50, 1
        arguments.at_once = [1, 4, 16]
    steps = arguments.steps
    print(f"{header()}\n")
    print(f"Settings a second by settings at once, compiled before, {steps} steps:\n")
    rows = (
        [str(width), milliseconds(found), f"{width / found.median:.1f}"]
        for width, found in zip(
            arguments.at_once,
            seconds_by_width(arguments.at_once, arguments.hidden, steps),
            strict=True,
        )
    )
    table(["settings at once", "ms a sweep (quartiles)", "settings a second"], rows)
    build = builder(arguments.hidden, steps)
    show_kinds(build, learning_rates(arguments.settings), steps, arguments.repeats)


if __name__ == "__main__":
    main()
