"""What is timed elsewhere in turn, for pytest-benchmark: updates, Runge-Kutta steps and TIAM.

Run `pytest benchmarks --benchmark-enable --benchmark-only -n0`; plain `pytest` does not look here.
pytest-benchmark times one side after the other: for ratios, `python -m benchmarks` steps all sides
in turn.
"""

from __future__ import annotations

import jax
import pytest

import tritia
from benchmarks import runge_kutta, tiam_cost
from benchmarks.families import (
    FAMILIES,
    LONG_MEMORY,
    PEERS,
    RATE,
    examples,
    perceptron,
    transformer,
)
from benchmarks.timing import carried, update_step

EVERYTHING = {**PEERS, **FAMILIES, **LONG_MEMORY}
KERNEL_STEPS = (*tiam_cost.KERNEL_STEPS, "backtracking")
WIDTHS = (784, 512, 512, 512, 10)


def timed(benchmark, step, carry, *rest):
    """Times a step whose results are its next arguments."""
    call = carried(jax.jit(step, donate_argnums=tuple(range(len(carry)))), carry, *rest)
    benchmark(lambda: jax.block_until_ready(call()))


@pytest.fixture(scope="module")
def params():
    return transformer()


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.benchmark(group="update", warmup=True)
def test_update(benchmark, params, name):
    optimizer = EVERYTHING[name].make(RATE)
    timed(benchmark, update_step(optimizer), (params, optimizer.init(params)), params)


@pytest.mark.parametrize("name", runge_kutta.STEPS)
@pytest.mark.benchmark(group="Runge-Kutta step", warmup=True)
def test_runge_kutta_step(benchmark, name):
    optimizer, start = tritia.runge_kutta(RATE, name), perceptron(WIDTHS)
    step = runge_kutta.opaque_step(optimizer)
    timed(benchmark, step, (start, optimizer.init(start)), *examples(128, WIDTHS))


@pytest.mark.parametrize("stages", sorted(set(runge_kutta.STEPS.values())))
@pytest.mark.benchmark(group="Runge-Kutta step", warmup=True)
def test_gradients(benchmark, stages):
    start = perceptron(WIDTHS)
    timed(benchmark, runge_kutta.gradients(stages), (start,), *examples(128, WIDTHS))


@pytest.mark.parametrize("data", tiam_cost.DATA)
@pytest.mark.parametrize("name", [tiam_cost.PEER, *KERNEL_STEPS])
@pytest.mark.benchmark(group="TIAM, 3 layers", warmup=True)
def test_tiam_update(benchmark, data, name):
    rows, inputs, hidden, outputs = tiam_cost.DATA[data]
    sizes = (inputs, hidden, hidden, outputs)
    optimizer, step = tiam_cost.sides(rows, KERNEL_STEPS)[name]
    start = perceptron(sizes)
    timed(benchmark, step, (start, optimizer.init(start)), *examples(rows, sizes))
