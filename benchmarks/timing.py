"""Timing of several sides in turn, in one process, and the Markdown that is made of it.

A machine is not equally fast from one minute to the next. So all sides of a comparison are stepped
in turn, round after round, and what is reported is medians, quartiles and ratios of one run.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import tritia


class Seconds(NamedTuple):
    """Quartiles of the time of one call.

    Attributes:
      low: the lower quartile.
      median: the median.
      high: the upper quartile.
    """

    low: float
    median: float
    high: float


def quartiles(seconds: Sequence[float]) -> Seconds:
    """Sums up what was measured."""
    return Seconds(*(float(value) for value in np.quantile(seconds, (0.25, 0.5, 0.75))))


def in_turn(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Seconds]:
    """Times a call of each side in turn, after one call of each that is not counted.

    Args:
      sides: functions without arguments, by name; what they return is waited for.
      rounds: how many calls of each are counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for done in range(rounds + 1):
        for name, call in sides.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            if done:
                seconds[name].append(time.perf_counter() - began)
    return {name: quartiles(found) for name, found in seconds.items()}


def carried(step: Callable[..., Any], carry: tuple[Any, ...], *rest: Any) -> Callable[[], Any]:
    """Makes a call of a step whose results are its next arguments, so that these can be donated.

    Args:
      step: `step(*carry, *rest)` returns the next carry.
      carry: the first one. Its buffers are copied: the step may be given them for good.
      *rest: arguments that stay the same.
    """
    kept = [jax.tree.map(lambda leaf: leaf.copy(), carry)]

    def call() -> Any:
        kept[0] = step(*kept[0], *rest)
        return kept[0]

    return call


def update_step(optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """An update and `apply_updates`: (params, state, grads) -> (params, state), both donated."""
    update = optax.with_extra_args_support(optimizer).update

    def step(params: Any, state: Any, grads: Any, **extra: Any) -> Any:
        updates, state = update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return step


def header() -> str:
    """What the figures below were measured on."""
    device = jax.devices()[0]
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=10"]
    found = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    cores = f"{jax.device_count()} x {device.device_kind}, {platform.machine()}"
    return (
        f"{cores}, Python {platform.python_version()}, JAX {jax.__version__}, Optax"
        f" {optax.__version__}, tritia {tritia.__version__} ({found or 'no commit'})"
    )


def milliseconds(seconds: Seconds) -> str:
    """A median with its quartiles, as a table has it."""
    low, median, high = (f"{1e3 * value:.3g}" for value in seconds)
    return f"{median} ({low}–{high})"


def add_parts(parser: argparse.ArgumentParser, parts: Iterable[str]) -> None:
    """Adds the arguments that choose parts of a script: none for all."""
    names = list(parts)

    def one(name: str) -> str:
        if name not in names:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(names)}")
        return name

    parser.add_argument("parts", nargs="*", type=one, default=names, help="default: all")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a Markdown table, each row as it comes."""
    print("|", " | ".join(head), "|")
    print("|", " | ".join("---" for _ in head), "|", flush=True)
    for row in rows:
        print("|", " | ".join(row), "|", flush=True)
    print()
