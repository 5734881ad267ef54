"""64 settings at once against 64 one after another, and settings per second against lanes.

    python benchmarks/sweeps.py

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
    arguments = parser.parse_args()
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

    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, {arguments}")
    times = {function: [] for function in (at_once, one_after_another, compiled_anew)}
    curves = {}
    for repeat in range(arguments.repeats):
        for function, found in times.items():
            if function is compiled_anew and repeat:  # minutes
                continue
            taken, curves[function] = seconds(function)
            found.append(taken)
            print(f"{function.__name__:18} {taken:8.2f} s", flush=True)
    medians = {function: statistics.median(found) for function, found in times.items()}
    for function, found in times.items():
        listed = ", ".join(f"{value:.2f}" for value in found)
        ratio = medians[function] / medians[at_once]
        difference = np.max(np.abs(curves[function] / curves[at_once] - 1))
        print(
            f"{function.__name__:18} median {medians[function]:8.2f} s  ({listed})  "
            f"{ratio:6.1f} x at once; curves differ by {difference:.1e} at most"
        )
    print("lanes  settings/s  (compiled before, median of 3)")
    for lanes in arguments.lanes:
        sweep, chosen = build(), sweeps.grid(learning_rate=list(np.geomspace(1e-4, 1e-1, lanes)))
        sweep(chosen)
        found = []
        for _ in range(3):
            began = time.perf_counter()
            sweep(chosen)
            found.append(time.perf_counter() - began)
        print(f"{lanes:5}  {lanes / statistics.median(found):10.1f}")


if __name__ == "__main__":
    main()
