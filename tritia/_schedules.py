"""Schedules that the solvers take by default."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from tritia._arguments import check_number, check_static_int


def halving(start: float = 100.0, *, floor: float = 1e-3) -> optax.Schedule:
    """Returns the schedule that starts at `start`, halves at each update, and stays at `floor`.

    Args:
      start: the value at count 0, > 0.
      floor: the least value, >= 0.

    Returns:
      The schedule, for `eps` of `tritia.tiam`.

    Raises:
      ValueError: a number is outside its range.

    Examples:
      >>> from tritia.alternating import halving
      >>> [float(halving(8.0, floor=1.0)(count)) for count in (0, 1, 2, 10)]
      [8.0, 4.0, 2.0, 1.0]
    """
    check_number("start", start, minimum=0, exclusive_minimum=True, schedule=False)
    check_number("floor", floor, minimum=0, schedule=False)
    # The exponent is bounded so that nothing underflows on the way.
    return lambda count: jnp.maximum(
        start * 0.5 ** jnp.minimum(jnp.asarray(count, float), 120.0), floor
    )


def growing_period(first: int, largest: int) -> optax.Schedule:
    """Returns the schedule of periods that is half the count, between `first` and `largest`.

    Args:
      first: the shortest period, in steps, >= 1; static.
      largest: the longest, >= first; static.

    Returns:
      The schedule, for `refresh_period` and `factor_period` of `tritia.stochastic_tiam`.

    Raises:
      ValueError: not 1 <= first <= largest.

    Examples:
      >>> from tritia.alternating import growing_period
      >>> [int(growing_period(1, 10)(count)) for count in (0, 8, 1000)]
      [1, 4, 10]
    """
    shortest = check_static_int("first", first, minimum=1)
    longest = check_static_int("largest", largest, minimum=shortest)
    return lambda count: jnp.clip(jnp.asarray(count) // 2, shortest, longest)
