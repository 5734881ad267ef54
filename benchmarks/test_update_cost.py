"""One update of each transform for pytest-benchmark, beside Optax's.

Run `pytest benchmarks --benchmark-enable --benchmark-only -n0`; plain `pytest` does not look here.
pytest-benchmark times one side after the other: for ratios, `python -m benchmarks.update_cost`
steps both in turn.
"""

from __future__ import annotations

import jax
import pytest

from benchmarks.families import FAMILIES, LONG_MEMORY, PEERS, RATE, transformer
from benchmarks.timing import carried, update_step

EVERYTHING = {**PEERS, **FAMILIES, **LONG_MEMORY}


@pytest.fixture(scope="module")
def params():
    return transformer()


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.benchmark(group="update", warmup=True)
def test_update(benchmark, params, name):
    optimizer = EVERYTHING[name].make(RATE)
    step = jax.jit(update_step(optimizer), donate_argnums=(0, 1))
    call = carried(step, (params, optimizer.init(params)), params)
    benchmark(lambda: jax.block_until_ready(call()))
