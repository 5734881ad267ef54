"""Successive halving: settings that do worse early stop early."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

from tritia._arguments import check_static_int


class TooFewRecords(ValueError):
    """`records` leaves no record for a rung of `halving`."""


class Halving(NamedTuple):
    """Successive halving: the best settings go on, the others stop.

    A *rung* is a point of the training at which settings are compared and most of them stopped.
    After records / factor^rungs records one setting in `factor` goes on, after records /
    factor^(rungs - 1) again, and so on; the last ones are trained to the end. It saves time where
    the early curve predicts the end. What follows a rung is compiled separately, because it has
    fewer settings, so halving pays where training takes longer than compiling.

    Attributes:
      factor: one setting in this many goes on, >= 2.
      rungs: how many times, >= 1.

    References:
      `Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter
      Optimization <https://arxiv.org/abs/1502.07943>`_; rungs as in `Li et al., A System for
      Massively Parallel Hyperparameter Tuning <https://arxiv.org/abs/1810.05934>`_.

    Examples:
      >>> import tritia.sweeps
      >>> halving = tritia.sweeps.Halving(factor=2, rungs=3)  # 1/2, 1/4 and 1/8 go on
    """

    factor: int = 3
    rungs: int = 2


def rung_ends(halving: Halving | None, records: int) -> list[int]:
    """Returns the records at which settings are stopped, and the last one.

    Raises:
      TypeError: `halving` is no `Halving`.
      TooFewRecords: two rungs would fall on one record.
    """
    if halving is None:
        return [records]
    if not isinstance(halving, Halving):
        raise TypeError(f"halving must be a tritia.sweeps.Halving or None; got {halving!r}.")
    factor = check_static_int("factor of halving", halving.factor, minimum=2)
    rungs = check_static_int("rungs of halving", halving.rungs, minimum=1)
    ends = [round(records / factor**power) for power in range(rungs, -1, -1)]
    if ends[0] < 1 or len(set(ends)) < len(ends):
        raise TooFewRecords(
            f"records is {records}, too few for {rungs} rungs of factor {factor}: {factor**rungs}"
            " are enough."
        )
    return ends


def fewer(count: int, halving: Halving | None) -> int:
    """Returns how many of `count` settings go on after a rung."""
    return count if halving is None else math.ceil(count / halving.factor)


def spans(count: int, ends: list[int], halving: Halving | None) -> Iterator[tuple[int, int, int]]:
    """Yields, for each span between two rungs, its settings, its first record and its end."""
    for begin, end in itertools.pairwise([0, *ends]):
        yield count, begin, end
        count = fewer(count, halving)
