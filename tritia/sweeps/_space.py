"""Settings to try: all combinations of given numbers, or random draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tritia._arguments import check_static_int

Setting = Mapping[str, float]
"""One point of a sweep: numbers by name."""

Sampler = Callable[[np.random.Generator], float]
"""Draws one number."""


def grid(**values: Sequence[float]) -> list[dict[str, float]]:
    """Returns all combinations of the given numbers; the last name varies fastest.

    Args:
      **values: the numbers to try, by name.

    Returns:
      The settings.

    Raises:
      ValueError: a name has no numbers, or there is no name.
      TypeError: something other than a list of numbers.

    Examples:
      >>> import tritia.sweeps
      >>> for setting in tritia.sweeps.grid(learning_rate=[0.1, 0.3], predict=[0.0, 0.9]):
      ...   print(setting)
      {'learning_rate': 0.1, 'predict': 0.0}
      {'learning_rate': 0.1, 'predict': 0.9}
      {'learning_rate': 0.3, 'predict': 0.0}
      {'learning_rate': 0.3, 'predict': 0.9}
    """
    for name, numbers in values.items():
        if not hasattr(numbers, "__len__"):
            raise TypeError(f"grid needs a list of numbers for {name!r}; got {numbers!r}.")
        if len(numbers) == 0:
            raise ValueError(f"grid has no numbers for {name!r}.")
    if not values:
        raise ValueError("grid needs numbers to try, such as grid(learning_rate=[0.1, 0.3]).")
    columns = [[float(number) for number in numbers] for numbers in values.values()]
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*columns)]


def draw(count: int, *, seed: int = 0, **samplers: Sampler | float) -> list[dict[str, float]]:
    """Returns random settings.

    Args:
      count: how many.
      seed: of the random numbers.
      **samplers: by name, what `uniform`, `log_uniform` or `choice` return, any other function of a
        `numpy.random.Generator`, or a number that stays as it is.

    Returns:
      The settings. The first ones stay the same when `count` grows.

    Raises:
      ValueError: `count` is below 1, or there is no name.
      TypeError: `count` is not an int.

    Examples:
      >>> import tritia.sweeps
      >>> settings = tritia.sweeps.draw(
      ...   100, learning_rate=tritia.sweeps.log_uniform(1e-3, 1.0), predict=0.9)
      >>> len(settings), settings[0]["predict"]
      (100, 0.9)
      >>> all(1e-3 <= setting["learning_rate"] <= 1.0 for setting in settings)
      True
    """
    count = check_static_int("count", count, minimum=1)
    if not samplers:
        raise ValueError("draw needs numbers to draw, such as learning_rate=log_uniform(1e-3, 1).")
    generator = np.random.default_rng(seed)
    return [
        {
            name: float(sampler(generator) if callable(sampler) else sampler)
            for name, sampler in samplers.items()
        }
        for _ in range(count)
    ]


def uniform(low: float, high: float) -> Sampler:
    """Returns a sampler of numbers between `low` and `high`.

    Args:
      low: the least number.
      high: the greatest number, > low.

    Returns:
      A sampler for `draw`.

    Raises:
      ValueError: `low` is not below `high`, or one is not finite.

    Examples:
      >>> import tritia.sweeps
      >>> settings = tritia.sweeps.draw(3, predict=tritia.sweeps.uniform(0.0, 0.9))
    """
    _check_range(low, high)
    return lambda generator: generator.uniform(low, high)


def log_uniform(low: float, high: float) -> Sampler:
    """Returns a sampler of numbers whose logarithm is uniform between those of `low` and `high`.

    Args:
      low: the least number, > 0.
      high: the greatest number, > low.

    Returns:
      A sampler for `draw`.

    Raises:
      ValueError: `low` is not above 0 or not below `high`, or `high` is not finite.

    Examples:
      >>> import tritia.sweeps
      >>> settings = tritia.sweeps.draw(3, learning_rate=tritia.sweeps.log_uniform(1e-4, 1.0))
    """
    if not low > 0:
        raise ValueError(f"low is {low!r}; allowed: 0 < low.")
    _check_range(low, high)
    return lambda generator: math.exp(generator.uniform(math.log(low), math.log(high)))


def choice(numbers: Sequence[float]) -> Sampler:
    """Returns a sampler of the given numbers, each as likely as another.

    Args:
      numbers: what to choose from.

    Returns:
      A sampler for `draw`.

    Raises:
      ValueError: there are none.

    Examples:
      >>> import tritia.sweeps
      >>> settings = tritia.sweeps.draw(3, predict=tritia.sweeps.choice([0.0, 0.9]))
    """
    if len(numbers) == 0:
        raise ValueError("choice needs numbers to choose from.")
    return lambda generator: float(numbers[int(generator.integers(len(numbers)))])


def _check_range(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"low is {low!r} and high is {high!r}; allowed: finite, low < high.")
