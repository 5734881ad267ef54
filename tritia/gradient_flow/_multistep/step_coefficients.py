"""Which scheme takes a step, and with which coefficients.

While there is too little history, or too uneven a history, a member of the scheme's family with
fewer steps takes its place (`LinearMultistep.family`).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tritia.gradient_flow._multistep.scheme import LinearMultistep, arranged
from tritia.gradient_flow._multistep.uneven_steps import adapt_to_step_sizes

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
    later = later.astype(a.dtype).reshape((1,) * (a.ndim - 1) + later.shape)
    weights = (a[..., None, :] * later).sum(axis=-1)
    return StepCoefficients(weights, b[..., : past_directions + 1])


def by_history(
    scheme: LinearMultistep, count: jax.Array, past: Any, step_size: jax.Array
) -> StepCoefficients:
    """The coefficients for equal steps, by how much history there is: `count` steps.

    The sizes of the past steps are not looked at.
    """
    del past
    rows = [
        next(
            arranged(member, scheme.steps)[0]
            for member in scheme.family
            if scheme.from_rest or member.steps - 1 <= available
        )
        for available in range(scheme.steps)
    ]
    row = jnp.minimum(count, scheme.steps - 1)
    # Worked out here, and not in the program, where the sums would take longest to compile.
    table = _split(scheme, np.stack(rows))
    return StepCoefficients(*(jnp.asarray(part, step_size.dtype)[row] for part in table))


class _Family(NamedTuple):
    """A family of schemes as arrays: the first axis runs over its n members, k are its steps."""

    x: np.ndarray  # coefficients (a, b) for equal steps, (n, 2 k)
    free: np.ndarray  # which of them the member has, (n, 2 k)
    order: np.ndarray  # (n,)
    unread: np.ndarray  # which past steps the member does not read, (n, k - 1)
    highest: np.ndarray  # the largest h_t / h_{t-j} it is stable for, (n, k - 1)
    lowest: np.ndarray  # the smallest


@functools.lru_cache(maxsize=256)
def _family(scheme: LinearMultistep) -> _Family:
    family, lag = scheme.family, np.arange(1, scheme.steps)
    rows = [arranged(member, scheme.steps) for member in family]
    slack = 1e-6  # a ratio that is exactly at a limit is computed with rounding
    return _Family(
        x=np.stack([x for x, _ in rows]),
        free=np.stack([free for _, free in rows]),
        order=np.array([member.order for member in family]),
        unread=np.stack([lag >= member.steps for member in family]),
        highest=np.stack([member.growth_limit**lag * (1 + slack) for member in family]),
        lowest=np.stack([member.shrink_limit**lag * (1 - slack) for member in family]),
    )


def by_step_sizes(
    scheme: LinearMultistep, count: jax.Array, past: Any, step_size: jax.Array
) -> StepCoefficients:
    """The coefficients for the actual step sizes, of the member with most steps that they allow.

    `past` are the last step sizes, newest first: an array of shape (steps - 1,). All members of the
    family are adapted together, so that the work does not grow with their number.
    """
    family, dtype = _family(scheme), step_size.dtype
    lag = np.arange(1, scheme.steps)
    if scheme.from_rest:
        # The point was at rest: all past displacements are 0, and their steps may be as this one.
        past = jnp.where(lag <= count, past, step_size)
    reach = jnp.cumsum(past) / jnp.where(step_size > 0, step_size, 1)
    resolved = reach <= (lag * MAX_SHRINK).astype(dtype)
    borne = (
        (step_size <= family.highest.astype(dtype) * past[None])
        & (step_size >= family.lowest.astype(dtype) * past[None])
        & ((past > 0) & (step_size > 0) & resolved)[None]
    )
    allowed = jnp.all(borne | family.unread, axis=-1)  # gradient descent always is
    # Members that are not allowed are worked out for equal steps, so that nothing becomes NaN.
    actual = allowed[:, None] & resolved[None]
    times = jnp.where(actual, -reach[None], -lag[None].astype(dtype))
    times = jnp.pad(times, ((0, 0), (1, 0)))
    x = adapt_to_step_sizes(jnp.asarray(family.x, dtype), times, family.free, family.order)
    return _split(scheme, x[jnp.argmax(allowed)])
