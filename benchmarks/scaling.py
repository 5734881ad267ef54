"""The time of an update against the number of parameters, on log axes.

Run `python -m benchmarks.scaling [--quick] [--out FILE.png]`.

The shapes of a small transformer from 0.16 to 22 million parameters, wider and wider with as many
arrays. The slope is that of a straight line through the points on log axes: 1 is proportional, less
is a cost per array that does not depend on its size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np

from benchmarks.families import FAMILIES, LONG_MEMORY, PEERS, RATE, parameters, transformer
from benchmarks.timing import carried, header, in_turn, table, update_step

WIDTHS = (32, 64, 128, 256, 384)
SHOWN = ("adams_bashforth(2)", "difference(2, 3)", "triple_inertia(sgd)", "difference(3, 6)")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three sizes, fewer rounds")
    parser.add_argument("--rounds", type=int, help="calls of each side that are counted")
    parser.add_argument("--out", type=Path, help="file for the picture")
    arguments = parser.parse_args()
    widths = WIDTHS[:3] if arguments.quick else WIDTHS
    layers = 4 if arguments.quick else 12
    rounds = arguments.rounds or (10 if arguments.quick else 30)
    families = {"adam": PEERS["adam"], **{n: {**FAMILIES, **LONG_MEMORY}[n] for n in SHOWN}}
    counts, medians = [], {name: [] for name in families}
    for width in widths:
        params = transformer(width, layers, 8 * width)
        counts.append(parameters(params))
        calls = {}
        for name, family in families.items():
            optimizer = family.make(RATE)
            step = jax.jit(update_step(optimizer), donate_argnums=(0, 1))
            calls[name] = carried(step, (params, optimizer.init(params)), params)
        for name, found in in_turn(calls, rounds).items():
            medians[name].append(found.median)

    slopes = {
        name: np.polyfit(np.log(counts), np.log(times), 1)[0] for name, times in medians.items()
    }
    print(f"{header()}\n\nMilliseconds an update:\n")
    sizes = [f"{count / 1e6:.2g} million" for count in counts]
    rows = (
        [name, *(f"{1e3 * time:.3g}" for time in times), f"{slopes[name]:.2f}"]
        for name, times in medians.items()
    )
    table(["transform", *sizes, "slope"], rows)
    if arguments.out:
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
        for name, times in medians.items():
            axes.loglog(
                counts, 1e3 * np.asarray(times), "o-", label=f"{name}, slope {slopes[name]:.2f}"
            )
        axes.set(xlabel="parameters", ylabel="ms an update")
        axes.grid(which="both", alpha=0.3)
        figure.legend(loc="outside right upper", frameon=False)
        figure.savefig(arguments.out, dpi=150)


if __name__ == "__main__":
    main()
