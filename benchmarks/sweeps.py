"""64 settings at once against 64 one after another, and settings per second against lanes.

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

import jax
import numpy as np
import optax
import sklearn.datasets
from flax import nnx

from benchmarks.timing import header, in_turn, milliseconds, table
from tritia import sweeps


def problem_and_data(hidden):
    digits = sklearn.datasets.load_digits()
    x, y = (digits.data / 16.0).astype(np.float32), digits.target.astype(np.int32)
    data = {"training": {"x": x[:1400], "y": y[:1400]}, "held_out": {"x": x[1400:], "y": y[1400:]}}

    def model(rngs):
        return nnx.Sequential(
            nnx.Linear(64, hidden, rngs=rngs), nnx.relu, nnx.Linear(hidden, 10, rngs=rngs)
        )

    def loss(model, batch):
        outputs = model(batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"]).mean()

    return sweeps.nnx_problem(model, loss, lambda model, data: loss(model, data["held_out"])), data


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lanes", type=int, nargs="*", default=[1, 4, 16, 64, 256])
    parser.add_argument("--quick", action="store_true", help="3 settings, once, and fewer lanes")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.settings, arguments.steps, arguments.repeats = 3, 50, 1
        arguments.lanes = [1, 4, 16]
    problem, data = problem_and_data(arguments.hidden)
    rates = np.geomspace(1e-4, 1e-1, arguments.settings)
    settings = sweeps.grid(learning_rate=list(rates))

    def build():
        return sweeps.build(
            lambda setting: optax.adam(setting["learning_rate"]),
            problem,
            data,
            steps=arguments.steps,
            records=10,
            batch=sweeps.minibatches(64, lambda data: data["training"]),
            progress=False,
        )

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

    print(f"{header()}\n")
    times = {function: [] for function in (at_once, one_after_another, compiled_anew)}
    curves = {}
    for repeat in range(arguments.repeats):
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

    print(f"{arguments.settings} settings of {arguments.steps} steps, with compilation:\n")
    head = ["", "s, median (least and most)", "times at once", "curves differ by, at most"]
    table(head, kinds())

    rates = {lanes: np.geomspace(1e-4, 1e-1, lanes) for lanes in arguments.lanes}
    compiled, calls = build(), {}
    for lanes, chosen in rates.items():
        found = sweeps.grid(learning_rate=list(chosen))
        calls[str(lanes)] = lambda found=found: compiled(found).losses
    seconds_of = in_turn(calls, 3)
    print(f"Settings a second by lanes, compiled before, {arguments.steps} steps:\n")
    rows = (
        [lanes, milliseconds(found), f"{int(lanes) / found.median:.1f}"]
        for lanes, found in seconds_of.items()
    )
    table(["lanes", "ms a sweep (quartiles)", "settings a second"], rows)


if __name__ == "__main__":
    main()
