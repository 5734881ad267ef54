"""Which rung of a scheme's ladder takes a step, and with which coefficients.

The ladder of a scheme is the scheme, its starters and gradient descent: while there is too little
history, or too uneven a history, a rung with fewer steps takes the scheme's place.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tritia.gradient_flow import _properties as properties
from tritia.gradient_flow._multistep.scheme import LinearMultistep
from tritia.gradient_flow._multistep.uneven_steps import (
    adapt_to_step_sizes,
    arranged,
    growth_limit,
    shrink_limit,
)

MAX_SHRINK = 1000.0
"""Past steps longer than this many times the next one are not read: float32 cannot resolve both."""


class StepCoefficients(NamedTuple):
    """What one step of size h is made of: update = h gains . directions - weights . steps."""

    weights: jax.Array  # of the past displacements, newest first
    gains: jax.Array  # of the direction that comes in, then of the past ones, newest first


def _split(scheme: LinearMultistep, x: Any) -> StepCoefficients:
    """Turns coefficients (a, b), of shape (..., 2 k), into weights A_i and gains b_j."""
    past_steps, past_directions = scheme.history_lengths
    a, b = x[..., : scheme.steps], x[..., scheme.steps :]
    later = np.triu(np.ones((scheme.steps, scheme.steps), bool))[1 : past_steps + 1]
    return StepCoefficients((a[..., None, :] * later).sum(axis=-1), b[..., : past_directions + 1])


def by_history(
    scheme: LinearMultistep, count: jax.Array, past: Any, step_size: jax.Array
) -> StepCoefficients:
    """The coefficients for equal steps, by how much history there is: `count` steps.

    The sizes of the past steps are not looked at.
    """
    del past
    rows = [
        next(
            arranged(rung, scheme.steps)[0]
            for rung in scheme.ladder
            if scheme.from_rest or rung.steps - 1 <= available
        )
        for available in range(scheme.steps)
    ]
    row = jnp.minimum(count, scheme.steps - 1)
    # Worked out here, and not in the program, where the sums would take longest to compile.
    table = _split(scheme, np.stack(rows))
    return StepCoefficients(*(jnp.asarray(part, step_size.dtype)[row] for part in table))


class _Rungs(NamedTuple):
    """The ladder as arrays; the first axis runs over its rungs, k is the scheme's steps."""

    x: np.ndarray  # coefficients (a, b) for equal steps, (rungs, 2 k)
    free: np.ndarray  # which of them the rung has, (rungs, 2 k)
    order: np.ndarray  # (rungs,)
    unread: np.ndarray  # which past steps the rung does not read, (rungs, k - 1)
    highest: np.ndarray  # the largest h_t / h_{t-j} it bears, (rungs, k - 1)
    lowest: np.ndarray  # the smallest


@functools.lru_cache(maxsize=256)
def _rungs(scheme: LinearMultistep) -> _Rungs:
    ladder, lag = scheme.ladder, np.arange(1, scheme.steps)
    rows = [arranged(rung, scheme.steps) for rung in ladder]
    slack = 1e-6  # a ratio that is exactly at a limit is computed with rounding
    return _Rungs(
        x=np.stack([x for x, _ in rows]),
        free=np.stack([free for _, free in rows]),
        order=np.array([properties.order(rung) for rung in ladder]),
        unread=np.stack([lag >= rung.steps for rung in ladder]),
        highest=np.stack([growth_limit(rung) ** lag * (1 + slack) for rung in ladder]),
        lowest=np.stack([shrink_limit(rung) ** lag * (1 - slack) for rung in ladder]),
    )


def by_step_sizes(
    scheme: LinearMultistep, count: jax.Array, past: Any, step_size: jax.Array
) -> StepCoefficients:
    """The coefficients for the actual step sizes, from the longest rung that these allow.

    `past` are the last step sizes, newest first: an array of shape (steps - 1,). All rungs
    are adapted together, so that the work does not grow with their number.
    """
    rungs, dtype = _rungs(scheme), step_size.dtype
    lag = np.arange(1, scheme.steps)
    if scheme.from_rest:
        # A point at rest has been there for as long as anybody asks.
        past = jnp.where(lag <= count, past, step_size)
    reach = jnp.cumsum(past) / jnp.where(step_size > 0, step_size, 1)
    borne = (
        (past > 0)
        & (step_size > 0)
        & (step_size <= rungs.highest.astype(dtype) * past)
        & (step_size >= rungs.lowest.astype(dtype) * past)
        & (reach <= lag * MAX_SHRINK)
    )
    allowed = jnp.all(borne | rungs.unread, axis=-1)  # gradient descent always is
    # Rungs that are not allowed are worked out for equal steps, so that nothing becomes NaN.
    times = jnp.where(allowed[:, None] & (reach <= lag * MAX_SHRINK), -reach, -lag.astype(dtype))
    times = jnp.pad(times, ((0, 0), (1, 0)))
    x = adapt_to_step_sizes(jnp.asarray(rungs.x, dtype), times, rungs.free, rungs.order)
    return _split(scheme, x[jnp.argmax(allowed)])
