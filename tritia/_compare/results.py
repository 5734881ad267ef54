"""What is kept of a comparison, so that a run that is interrupted or killed goes on where it was.

`finished/NAME.json` holds what is known of one optimizer, first its tuning, then its curves too;
`timing.json` comes last. The rest (`metrics.csv`, `report.md`, `learning_curves.png`) is drawn from
these.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tritia._compare.errors import UsageError
from tritia._compare.folder import read_json, write_json
from tritia._compare.training import Curves
from tritia._compare.tuning import Tuning

FINISHED, TIMING = "finished", "timing.json"
METRICS, PICTURE, REPORT = "metrics.csv", "learning_curves.png", "report.md"
OUTPUTS = (REPORT, METRICS, PICTURE, TIMING, FINISHED)


def save_optimizer(folder: Path, name: str, tuning: Tuning, curves: Curves | None) -> None:
    """Keeps what is known of one optimizer."""
    content = {
        "tuning": tuning._asdict(),
        "curves": None if curves is None else curves._asdict(),
    }
    (folder / FINISHED).mkdir(exist_ok=True)
    write_json(folder / FINISHED / f"{name}.json", content)


def load_optimizer(folder: Path, name: str) -> tuple[Tuning | None, Curves | None]:
    """Reads what `save_optimizer` kept; None for what isn't there."""
    path = folder / FINISHED / f"{name}.json"
    if not path.exists():
        return None, None
    content = read_json(path)
    try:
        tuning = Tuning(**content["tuning"])
        tuning = tuning._replace(
            scores=[-math.inf if score is None else score for score in tuning.scores],
            losses=[math.inf if loss is None else loss for loss in tuning.losses],
        )
        if content["curves"] is None:
            return tuning, None
        arrays = {
            field: np.asarray(value, float)
            for field, value in content["curves"].items()
            if field not in ("diagnostics", "compile_seconds")
        }
        diagnostics = {
            field: np.asarray(value, float)
            for field, value in content["curves"]["diagnostics"].items()
        }
        seconds = content["curves"]["compile_seconds"]
        return tuning, Curves(**arrays, diagnostics=diagnostics, compile_seconds=seconds)
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{path} is damaged; delete it to compute it again") from None


def save_timing(folder: Path, seconds: Mapping[str, list[float]]) -> None:
    """Keeps the times of the epochs."""
    write_json(folder / TIMING, seconds)


def load_timing(folder: Path) -> dict[str, list[float]]:
    """Reads what `save_timing` kept; an empty dict where there is nothing."""
    path = folder / TIMING
    return read_json(path) if path.exists() else {}


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
