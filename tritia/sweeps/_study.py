"""An Optuna study chooses the settings, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tritia._arguments import check_static_int
from tritia.sweeps._result import Result


def drive(
    study: Any,
    suggest: Callable[[Any], Mapping[str, float]],
    sweep: Callable[[Sequence[Mapping[str, float]]], Result],
    *,
    batches: int,
    size: int,
) -> list[Result]:
    """Asks a study for a batch of settings, runs them at once, tells it their scores, and repeats.

    Args:
      study: an `optuna.Study`, or anything with its `ask()` and `tell(trial, value)`. Its
        direction must be that of the sweep: "maximize" where `build` was
        given `maximise=True`.
      suggest: from a trial to a setting, with the trial's `suggest_float`.
      sweep: what `tritia.sweeps.build` returns. It is compiled once for all batches.
      batches: how many.
      size: settings in each.

    Returns:
      The `Result` of each batch. A trial that diverged is told an infinite score, from which the
      study learns to stay away.

    Raises:
      ValueError: `batches` or `size` is below 1.
      TypeError: `batches` or `size` is not an int.

    References:
      `Optuna: Ask-and-Tell Interface
      <https://optuna.readthedocs.io/en/stable/tutorial/20_recipes/009_ask_and_tell.html>`_

    Examples:
      >>> import tritia.sweeps
      >>> def tune(study, sweep):  # study = optuna.create_study()
      ...   suggest = lambda trial: {
      ...     "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1.0, log=True)}
      ...   tritia.sweeps.drive(study, suggest, sweep, batches=5, size=16)
      ...   return study.best_params
    """
    batches = check_static_int("batches", batches, minimum=1)
    size = check_static_int("size", size, minimum=1)
    results = []
    for _ in range(batches):
        trials = [study.ask() for _ in range(size)]
        result = sweep([suggest(trial) for trial in trials])
        for trial, score in zip(trials, result.scores, strict=True):
            study.tell(trial, float(score))
        results.append(result)
    return results
