"""The settings that `tritia sweep` is asked to try."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tritia._command_line.sweep_options import MOST_SETTINGS
from tritia._compare.errors import UsageError, unknown
from tritia._compare.optimizers import Optimizer
from tritia.sweeps import _space as space

_DEFAULT_COUNT = 16


def settings_of(
    optimizer: Optimizer,
    grids: Sequence[tuple[str, Sequence[float]]],
    draws: Sequence[tuple[str, space.Sampler]],
    count: int | None,
) -> list[dict[str, float]]:
    """Writes the settings that the command line asks for.

    Args:
      optimizer: whose numbers they are; those that are not swept keep their usual values.
      grids: numbers to try, by name.
      draws: numbers to draw, by name.
      count: how many draws; None for the usual number.

    Returns:
      The settings.

    Raises:
      UsageError: a name is not one of the optimizer's.
    """
    usual = {name: values[0] for name, values in optimizer.coefficients.items()}
    if optimizer.learning_rate is not None:
        usual = {"learning_rate": optimizer.learning_rate, **usual}
    if not usual:
        raise UsageError(f"{optimizer.call} has no numbers to sweep")
    names = [name for name, _ in [*grids, *draws]]
    for name in names:
        if name not in usual:
            raise UsageError(unknown(f"number of {optimizer.call}", name, usual))
        if names.count(name) > 1:
            raise UsageError(f"{name} is given twice")
    if grids and draws:
        raise UsageError("--grid and --draw don't go together")
    if count is not None and grids:
        raise UsageError("--count goes with --draw; --grid tries all combinations")
    if math.prod(len(numbers) for _, numbers in grids) > MOST_SETTINGS:
        raise UsageError(f"--grid has more than {MOST_SETTINGS} combinations")
    if grids:
        points = space.grid(**dict(grids))
    else:
        samplers = dict(draws)
        if not samplers:
            if optimizer.learning_rate is None:
                raise UsageError(f"say which of {', '.join(usual)} to sweep, by --grid or --draw")
            if count is None:  # evenly rather than at random
                centre = optimizer.learning_rate
                rates = np.geomspace(centre / 100, centre * 100, _DEFAULT_COUNT)
                return [{**usual, "learning_rate": float(f"{rate:.3g}")} for rate in rates]
            centre = optimizer.learning_rate
            samplers = {"learning_rate": space.log_uniform(centre / 100, centre * 100)}
        points = space.draw(count or _DEFAULT_COUNT, seed=0, **samplers)
    return [{**usual, **point} for point in points]
