"""How long the update takes to trace, lower and compile, against Optax's with as much memory.

Run `python -m benchmarks.compile_time [--quick]`.

The jitted, donated `update` and `apply_updates` on 10 million parameters in the shapes of a small
transformer (147 arrays), with a learning rate that is a number and one that is a schedule, all
sides in turn, with empty caches. XLA compiles a piece of code for each array and each sum, so the
time grows with the number of arrays.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from benchmarks.families import FAMILIES, LONG_MEMORY, PEERS, RATE, Family, transformer
from benchmarks.timing import header, table, update_step

EVERYTHING = {**FAMILIES, **LONG_MEMORY}
RATES = {"number": RATE, "schedule": optax.cosine_decay_schedule(RATE, 1000)}


def seconds(family: Family, rate: Any, params: Any) -> tuple[float, float, float]:
    """Seconds of tracing, of lowering and of compiling, from nothing."""
    optimizer = family.make(rate)
    state = optimizer.init(params)
    jax.clear_caches()
    began = time.perf_counter()
    traced = jax.jit(update_step(optimizer), donate_argnums=(0, 1)).trace(params, state, params)
    traced_at = time.perf_counter()
    lowered = traced.lower()
    lowered_at = time.perf_counter()
    lowered.compile()
    return traced_at - began, lowered_at - traced_at, time.perf_counter() - lowered_at


def show(families: Mapping[str, Family], params: Any, rounds: int) -> None:
    """One table."""
    peers = {family.peer: PEERS[family.peer] for family in families.values()}
    found: dict[Any, list[tuple[float, float, float]]] = {}
    for _ in range(rounds):
        for kind, rate in RATES.items():
            for name, family in {**peers, **families}.items():
                found.setdefault((name, kind), []).append(seconds(family, rate, params))

    def rows():
        for name, family in families.items():
            for kind in RATES:
                ours = np.median(found[name, kind], axis=0)
                theirs = np.median(found[family.peer, kind], axis=0)
                parts = [f"{value:.2f}" for value in ours]
                ratio = f"{ours.sum() / theirs.sum():.2f}"
                yield [name, kind, *parts, family.peer, f"{theirs.sum():.2f}", ratio]

    head = ["transform", "learning rate", "trace, s", "lower, s", "compile, s"]
    table([*head, "Optax's", "all three, s", "ratio"], rows())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer arrays, once")
    parser.add_argument("--rounds", type=int, help="compilations of each side")
    parser.add_argument("--only", nargs="*", choices=EVERYTHING, help="these transforms")
    arguments = parser.parse_args()
    params = transformer(**({"width": 64, "layers": 2} if arguments.quick else {}))
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    print(f"{header()}\n\n{len(jax.tree.leaves(params))} arrays, medians of {rounds}:\n")
    show({name: EVERYTHING[name] for name in arguments.only or EVERYTHING}, params, rounds)


if __name__ == "__main__":
    main()
