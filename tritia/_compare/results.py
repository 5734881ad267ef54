"""What is kept of a comparison, so that a run that is interrupted or killed goes on where it was.

`finished/NAME.json` holds what is known of one optimizer, first its tuning, then its curves too;
`timing.json` comes last. The rest (`metrics.csv`, `report.md`, `report.html`,
`learning_curves.png`) is drawn from these.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tritia._compare.errors import UsageError
from tritia._compare.folder import read_json, write_json
from tritia._compare.optimizers import Optimizer
from tritia._compare.training import Curves
from tritia._compare.tuning import Tuning

FINISHED, TIMING = "finished", "timing.json"
METRICS, PICTURE, REPORT, PAGE = "metrics.csv", "learning_curves.png", "report.md", "report.html"
OUTPUTS = (REPORT, PAGE, METRICS, PICTURE, TIMING, FINISHED)


def save_optimizer(
    folder: Path, name: str, optimizer: Optimizer, tuning: Tuning, curves: Curves | None
) -> None:
    """Keeps what is known of one optimizer."""
    content = {
        "source": optimizer.source,
        "tuning": tuning._asdict(),
        "curves": None if curves is None else curves._asdict(),
    }
    (folder / FINISHED).mkdir(exist_ok=True)
    write_json(folder / FINISHED / f"{name}.json", content)


def check_kinds(folder: Path) -> None:
    """Checks that what is in the places of results can be replaced by them.

    Raises:
      UsageError: there is a folder in the place of a file, or a file in that of a folder.
    """
    for name in OUTPUTS:
        path = folder / name
        if path.exists() and path.is_dir() != (name == FINISHED):
            kind = "a folder" if name == FINISHED else "a file"
            raise UsageError(f"{path} is not {kind}; delete it to compute it again")


def load_optimizer(
    folder: Path, name: str, optimizer: Optimizer, seeds: int, epochs: int
) -> tuple[Tuning | None, Curves | None]:
    """Reads what `save_optimizer` kept.

    Args:
      folder: of the comparison.
      name: of the optimizer.
      optimizer: from the registry.
      seeds: how many the curves may have at most.
      epochs: likewise; one point more, for the beginning.

    Returns:
      The tuning and the curves; None for what isn't there.

    Raises:
      UsageError: the file is damaged.
    """
    path = folder / FINISHED / f"{name}.json"
    if not path.exists():
        return None, None
    content = read_json(path)
    try:
        if content["source"] != optimizer.source:
            raise UsageError(
                f"{path} was made with another version of {optimizer.call}, whose file has changed;"
                " delete it to tune and train it again"
            )
        tuning = _tuning(content["tuning"], optimizer)
        if content["curves"] is None:
            return tuning, None
        return tuning, _curves(content["curves"], seeds, epochs)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path} is damaged ({type(error).__name__}: {error}); delete it to compute it again"
        ) from None


def _tuning(content: Mapping[str, Any], optimizer: Optimizer) -> Tuning:
    tuning = Tuning(**content)
    names = set(optimizer.coefficients)
    if optimizer.learning_rate is not None:
        names.add("learning_rate")
    for setting in (tuning.setting, *tuning.tried):
        if set(setting) != names or not all(_is_number(value) for value in setting.values()):
            raise ValueError(f"a setting is {setting}")
    if not len(tuning.tried) == len(tuning.scores) == len(tuning.losses):
        raise ValueError("as many scores and losses as settings tried are expected")
    if tuning.at_edge not in ("", "lowest", "highest") or not isinstance(tuning.failed, bool):
        raise ValueError("at_edge or failed")
    return tuning._replace(
        scores=[-math.inf if score is None else _number(score) for score in tuning.scores],
        losses=[math.inf if loss is None else _number(loss) for loss in tuning.losses],
    )


def _curves(content: Mapping[str, Any], seeds: int, epochs: int) -> Curves:
    fields = dict(content)
    losses = fields["training_loss"]
    shape = (len(losses), len(losses[0]))
    if not (1 <= shape[0] <= seeds and 2 <= shape[1] <= epochs + 1):
        raise ValueError(f"curves of shape {shape}, more than {(seeds, epochs + 1)}")
    diagnostics = {
        field: numbers(value, shape) for field, value in fields.pop("diagnostics").items()
    }
    compile_seconds = _number(fields.pop("compile_seconds"))
    arrays = {field: numbers(value, shape) for field, value in fields.items()}
    return Curves(**arrays, diagnostics=diagnostics, compile_seconds=compile_seconds)


def numbers(content: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Reads an array of numbers; null is NaN.

    Args:
      content: nested lists.
      shape: what they must have.

    Returns:
      The array, float.

    Raises:
      ValueError: they have another shape, or hold something else.
    """
    if not shape:
        return np.asarray(math.nan if content is None else _number(content))
    if not isinstance(content, list) or len(content) != shape[0]:
        raise ValueError(f"an array of shape {shape} is expected")
    if not content:
        return np.zeros(shape)
    return np.stack([numbers(part, shape[1:]) for part in content])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Any) -> float:
    if not _is_number(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def save_timing(folder: Path, seconds: Mapping[str, list[float]]) -> None:
    """Keeps the times of the epochs."""
    write_json(folder / TIMING, seconds)


def load_timing(folder: Path, optimizers: Sequence[str]) -> dict[str, list[float]]:
    """Reads what `save_timing` kept.

    Args:
      folder: of the comparison.
      optimizers: their names.

    Returns:
      Seconds per epoch and seed of each, one per round; an empty dict where nothing was kept.

    Raises:
      UsageError: the file is damaged.
    """
    path = folder / TIMING
    if not path.exists():
        return {}
    content = read_json(path)
    well = (
        isinstance(content, dict)
        and set(content) == set(optimizers)
        and all(isinstance(times, list) and times for times in content.values())
        and len({len(times) for times in content.values()}) == 1
        and all(_is_number(time) and time > 0 for times in content.values() for time in times)
    )
    if not well:
        raise UsageError(f"{path} is damaged; delete it to measure it again")
    return content


def metrics_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV; a number that is not finite leaves its cell empty."""
    rows = list(rows)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                column: "" if isinstance(value, float) and not math.isfinite(value) else value
                for column, value in row.items()
            }
        )
    return text.getvalue()
