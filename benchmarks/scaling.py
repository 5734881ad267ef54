"""How times grow: of an update, its compilation, Runge-Kutta, TIAM and sweeps, on log axes.

Run `python -m benchmarks.scaling [PART...] [--quick] [--out FILE.png]` with any of the parts

  update    by parameters: the shapes of a small transformer, wider and wider, as many arrays
  compile   by arrays: the same, deeper and deeper
  runge_kutta  a step and its gradients, by examples in the minibatch
  rows      an update of TIAM and a step of Adam on all rows, by rows
  width     the same, by the width of the hidden layers
  layers    the same, by layers
  sweep     a sweep, by settings that train at once
  batch     an update of as many runs as one vmapped program, by their number
  devices   what each of 1 to 8 devices computes, keeps and sends: counts, in benchmarks/devices.py

and it prints Markdown. A slope is that of a straight line through the points on log axes: 1 is
proportional, less is a cost that does not depend on the size.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import compile_time, runge_kutta, sweeps, tiam_cost
from benchmarks.families import (
    FAMILIES,
    LONG_MEMORY,
    PEERS,
    RATE,
    parameters,
    perceptron,
    transformer,
)
from benchmarks.timing import add_parts, carried, header, in_turn, table, update_step

EVERYTHING = {**PEERS, **FAMILIES, **LONG_MEMORY}


class Growth(NamedTuple):
    """What one part has measured.

    Attributes:
      what: a call of what is timed.
      size: what grows.
      sizes: its values.
      seconds: medians by name of what is timed, one for each size.
    """

    what: str
    size: str
    sizes: Sequence[int]
    seconds: Mapping[str, Sequence[float]]

    def slope(self, name: str) -> float:
        """The slope on log axes."""
        return np.polyfit(np.log(self.sizes), np.log(self.seconds[name]), 1)[0]


def collected(found: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Seconds by name, from those by name of each size."""
    return {name: [times[name] for times in found] for name in found[0]}


def update(quick: bool) -> Growth:
    """Updates by parameters."""
    names = ("adam", "adams_bashforth(2)", "difference(2, 3)", "triple_inertia(sgd)")
    names += ("difference(3, 6)",)
    counts, found = [], []
    for width in (32, 64, 128) if quick else (32, 64, 128, 256, 384):
        params = transformer(width, 4 if quick else 12, 8 * width)
        counts.append(parameters(params))
        calls = {}
        for name in names:
            optimizer = EVERYTHING[name].make(RATE)
            step = jax.jit(update_step(optimizer), donate_argnums=(0, 1))
            calls[name] = carried(step, (params, optimizer.init(params)), params)
        medians = in_turn(calls, 10 if quick else 30)
        found.append({name: medians[name].median for name in names})
    return Growth("an update", "parameters", counts, collected(found))


def compilation(quick: bool) -> Growth:
    """Compilation by arrays."""
    names = ("adam", "adams_bashforth(2)", "difference(2, 3)", "triple_inertia(sgd)")
    counts, found = [], []
    for layers in (1, 2) if quick else (1, 3, 6, 12, 24):
        params = transformer(32, layers, 64)
        counts.append(len(jax.tree.leaves(params)))
        taken: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(1 if quick else 3):
            for name in names:
                taken[name].append(sum(compile_time.seconds(EVERYTHING[name], RATE, params)))
        found.append({name: float(np.median(times)) for name, times in taken.items()})
    return Growth("a compilation", "arrays", counts, collected(found))


def steps_of_runge_kutta(quick: bool) -> Growth:
    """Steps and gradients by rows of the minibatch."""
    sizes = (32, 128) if quick else (32, 128, 512, 2048)
    widths = (64, 128, 128, 10) if quick else (784, 512, 512, 512, 10)
    found = []
    for rows in sizes:
        times = runge_kutta.steps_and_gradients(widths, rows, ("heun", "rk4"), 10)
        found.append(
            {
                name: side.median
                for method, pair in times.items()
                for name, side in zip((method, f"gradients of {method}"), pair, strict=True)
            }
        )
    return Growth("a step", "examples in the minibatch", sizes, collected(found))


def tiam_beside_adam(
    size: str, sizes: Sequence[int], shape: Callable[[int], tuple[int, tuple[int, ...]]]
) -> Growth:
    """Updates of TIAM and steps of Adam, by what makes (rows, widths)."""
    found = []
    for value in sizes:
        rows, widths = shape(value)
        calls = tiam_cost.calls(rows, widths, tiam_cost.sides(rows, ("auto",)))
        medians = in_turn(calls, 7)
        found.append({"tiam": medians["auto"].median, "adam, all rows": medians["adam"].median})
    return Growth("an update", size, sizes, collected(found))


def rows_of_tiam(quick: bool) -> Growth:
    """TIAM by rows."""
    sizes = (300, 1000) if quick else (600, 2000, 6000, 20000, 60000)
    return tiam_beside_adam(
        "rows (784-256-256-10)", sizes, lambda rows: (rows, (784, 256, 256, 10))
    )


def width_of_tiam(quick: bool) -> Growth:
    """TIAM by width."""
    sizes = (32, 64) if quick else (32, 64, 128, 256, 512)
    return tiam_beside_adam(
        "units a hidden layer (2000 rows of 64, 3 layers)",
        sizes,
        lambda width: (2000, (64, width, width, 10)),
    )


def layers_of_tiam(quick: bool) -> Growth:
    """TIAM by layers."""
    sizes = (2, 4) if quick else (2, 3, 6, 12, 24)
    return tiam_beside_adam(
        "layers (2000 rows of 100)", sizes, lambda layers: (2000, (100,) * layers + (10,))
    )


def sweep(quick: bool) -> Growth:
    """Sweeps by settings at once."""
    sizes = (1, 4, 16) if quick else (1, 4, 16, 64, 256)
    times = sweeps.seconds_by_width(sizes, hidden=32, steps=50 if quick else 200)
    return Growth("a sweep", "settings at once", sizes, {"sweep": [t.median for t in times]})


def updates_in_a_batch(quick: bool) -> Growth:
    """Vmapped updates by the number of runs, which differ in the learning rate."""
    names = ("adam", "adams_bashforth(2)", "difference(2, 3)", "difference(3, 6)")
    names += ("rk4, transparent",)
    sizes, found = (1, 4) if quick else (1, 4, 16, 64), []
    params = perceptron((16, 16, 4) if quick else (100, 256, 256, 10))
    for members in sizes:
        rates = jnp.linspace(RATE, 2 * RATE, members)
        copies = jax.tree.map(lambda leaf, n=members: jnp.stack([leaf] * n), params)
        calls = {}
        for name in names:

            def one(rate: Any, params: Any, state: Any, grads: Any, name: str = name) -> Any:
                return update_step(EVERYTHING[name].make(rate))(params, state, grads)

            state = jax.vmap(lambda rate, p, name=name: EVERYTHING[name].make(rate).init(p))(
                rates, copies
            )
            step = jax.jit(functools.partial(jax.vmap(one), rates), donate_argnums=(0, 1))
            calls[name] = carried(step, (copies, state), copies)
        medians = in_turn(calls, 10 if quick else 30)
        found.append({name: medians[name].median for name in names})
    return Growth("an update of all", "runs in a batch", sizes, collected(found))


PARTS: Mapping[str, Callable[[bool], Growth]] = {
    "update": update,
    "compile": compilation,
    "runge_kutta": steps_of_runge_kutta,
    "rows": rows_of_tiam,
    "width": width_of_tiam,
    "layers": layers_of_tiam,
    "sweep": sweep,
    "batch": updates_in_a_batch,
}


def draw(found: Sequence[Growth], file: Path) -> None:
    """One panel a part."""
    from matplotlib import pyplot

    columns = min(2, len(found))
    height = -(-len(found) // columns)
    figure, grid = pyplot.subplots(
        height, columns, figsize=(6 * columns, 3.5 * height), layout="constrained", squeeze=False
    )
    for axes, growth in zip(grid.flat, found, strict=False):
        for name, seconds in growth.seconds.items():
            label = f"{name}, slope {growth.slope(name):.2f}"
            axes.loglog(growth.sizes, 1e3 * np.asarray(seconds), "o-", label=label)
        axes.set(xlabel=growth.size, ylabel=f"{growth.what}, ms")
        axes.grid(which="both", alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
    for axes in grid.flat[len(found) :]:
        axes.remove()
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_parts(parser, [*PARTS, "devices"])
    parser.add_argument("--quick", action="store_true", help="fewer and smaller sizes")
    parser.add_argument("--out", type=Path, help="file for the picture")
    arguments = parser.parse_args()
    if set(arguments.parts) != {"devices"}:
        print(header(), end="\n\n")
    found = []
    for part in arguments.parts:
        if part == "devices":  # how many there are is settled before a process's first array
            quick = ["--quick"] if arguments.quick else []
            subprocess.run([sys.executable, "-m", "benchmarks.devices", *quick], check=True)
            continue
        growth = PARTS[part](arguments.quick)
        found.append(growth)
        print(f"Milliseconds of {growth.what}, by {growth.size}:\n")
        table(
            ["", *(f"{size:,}" for size in growth.sizes), "slope"],
            (
                [name, *(f"{1e3 * time:.3g}" for time in times), f"{growth.slope(name):.2f}"]
                for name, times in growth.seconds.items()
            ),
        )
    if arguments.out and found:
        draw(found, arguments.out)


if __name__ == "__main__":
    main()
