"""What is kept of a sweep: result.json, and sweep.csv, which is written from it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tritia._compare.errors import UsageError
from tritia._compare.folder import read_json, write_json
from tritia._compare.results import numbers
from tritia.sweeps import Result

RESULT, CSV, PICTURE = "result.json", "sweep.csv", "sweep.png"
OUTPUTS = (RESULT, CSV, PICTURE)
_ARRAYS = ("scores", "losses", "values", "steps", "diverged", "trained")


def save(folder: Path, result: Result) -> None:
    """Keeps what came of a sweep, without its params."""
    kept = {name: getattr(result, name) for name in (*_ARRAYS, "best", "at_once", "bytes")}
    write_json(folder / RESULT, {**kept, "diverged": result.diverged.astype(int)})


def load(
    folder: Path, settings: Sequence[Mapping[str, float]], seeds: int, epochs: int
) -> Result | None:
    """Reads what `save` kept.

    Args:
      folder: of the sweep.
      settings: that were tried.
      seeds: how many.
      epochs: how many.

    Returns:
      The `Result`, its params None; None where nothing was kept.

    Raises:
      UsageError: the file is damaged.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    content = read_json(path)
    count = len(settings)
    shapes = {
        "scores": (count,),
        "losses": (count, seeds, epochs),
        "values": (count, seeds, epochs),
        "steps": (epochs,),
        "diverged": (count, seeds),
        "trained": (count,),
    }
    try:
        found = {name: numbers(content[name], shape) for name, shape in shapes.items()}
        for name in ("steps", "trained", "diverged"):
            if np.isnan(found[name]).any():
                raise ValueError(f"{name} has gaps")
        if content["best"] not in [dict(setting) for setting in settings]:
            raise ValueError("best is not one of the settings")
        settings_at_once, seeds_at_once = (int(n) for n in numbers(content["at_once"], (2,)))
        found["scores"][np.isnan(found["scores"])] = -math.inf
        trained = found["trained"].astype(int)
        if trained.min() < 1 or trained.max() > epochs:
            raise ValueError("trained is not a number of epochs")
        return Result(
            best=content["best"],
            settings=list(settings),
            scores=found["scores"],
            losses=found["losses"],
            values=found["values"],
            steps=found["steps"].astype(int),
            diverged=found["diverged"].astype(bool),
            trained=trained,
            params=None,
            at_once=(settings_at_once, seeds_at_once),
            bytes=int(numbers(content["bytes"], ())),
            kept=np.full(seeds, int(found["steps"][-1])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} is damaged ({type(error).__name__}: {error}); delete it to compute it again"
        ) from None


def table_csv(result: Result) -> str:
    """One row for each setting, seed and epoch that was trained."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["seed", "epoch", "step", "training_loss", "validation_metric", "diverged"]
    writer.writerow(["setting", *result.settings[0], *head])
    for number, setting in enumerate(result.settings):
        for seed in range(result.losses.shape[1]):
            for epoch in range(result.trained[number]):
                figures = (result.losses[number, seed, epoch], result.values[number, seed, epoch])
                writer.writerow(
                    [
                        number,
                        *setting.values(),
                        seed,
                        epoch + 1,
                        result.steps[epoch],
                        *(f"{value:.6g}" if np.isfinite(value) else "" for value in figures),
                        int(result.diverged[number, seed]),
                    ]
                )
    return text.getvalue()
