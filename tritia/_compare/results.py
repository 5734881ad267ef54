"""How results are kept on disk, so that a run that is interrupted or killed goes on where it was.

A folder holds one comparison. `config.json` says which; `finished/NAME.json` holds what is known of
one optimizer, first its tuning, then its curves too; `timing.json` comes last. Each is written
beside its place and moved there, so that a file is either whole or absent. The rest (`metrics.csv`,
`report.md`, `learning_curves.png`) is drawn from these.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import math
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tritia._compare.errors import UsageError
from tritia._compare.training import Curves
from tritia._compare.tuning import Tuning

CONFIG = "config.json"
LOG = "run.log"
OUTPUTS = ("report.md", "metrics.csv", "learning_curves.png", "timing.json", "finished")


def write(path: Path, content: str | bytes) -> None:
    """Writes a file as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes standard JSON: numbers that are not finite become null."""
    write(path, json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON that `write_json` wrote.

    Raises:
      UsageError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read ({error}); delete it or use another --out"
        ) from None


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, np.ndarray):
        return _finite(content.tolist())
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    if isinstance(content, (float, np.floating)):
        return float(content) if math.isfinite(content) else None
    return content.item() if isinstance(content, np.generic) else content


def environment() -> dict[str, Any]:
    """The versions and the device that the figures depend on."""
    import jax

    import tritia

    device = jax.devices()[0]
    return {
        "versions": {
            "python": platform.python_version(),
            "tritia": tritia.__version__,
            **{
                name: importlib.metadata.version(name)
                for name in ("jax", "jaxlib", "optax", "flax", "numpy", "scikit-learn")
            },
        },
        "device": f"{device.platform}: {device.device_kind}",
        "platform": platform.platform(),
        "processors": os.cpu_count(),
    }


def open_folder(folder: Path, config: Mapping[str, Any]) -> bool:
    """Makes the folder, or checks that the comparison it holds is this one.

    Args:
      folder: where the results go.
      config: what config.json is to hold: "arguments" (by their names on the command line),
        "dataset", "versions", "device", ...

    Returns:
      True where the folder already held (part of) this comparison.

    Raises:
      UsageError: the folder can't be written, or holds something else; the message names what
        differs.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot write to --out {folder} ({error.strerror or error}); choose another folder"
        ) from None
    if not (folder / CONFIG).exists():
        taken = [name for name in OUTPUTS if (folder / name).exists()]
        if taken:
            raise UsageError(
                f"--out {folder} holds {taken[0]} but no {CONFIG}; it would be overwritten:"
                " choose another folder"
            )
        write_json(folder / CONFIG, config)
        (folder / "finished").mkdir()
        return False
    (folder / "finished").mkdir(exist_ok=True)
    before = read_json(folder / CONFIG)
    now = _finite(config)
    if not isinstance(before, dict) or not isinstance(before.get("arguments"), dict):
        raise UsageError(f"{folder / CONFIG} was not written by tritia compare; use another --out")
    for name, value in now["arguments"].items():
        earlier = before["arguments"].get(name)
        if name != "--data-dir" and earlier != value:
            raise UsageError(
                f"--out {folder} holds a run with {name} {_shown(earlier)}, this one has {name}"
                f" {_shown(value)}; use another --out, or delete the folder"
            )
    if before.get("dataset", {}).get("sha256") != now["dataset"]["sha256"]:
        raise UsageError(
            f"--out {folder} holds a run on other data (the checksum of {now['dataset']['name']}"
            " differs); use another --out, or delete the folder"
        )
    for name, value in {**now["versions"], "device": now["device"]}.items():
        earlier = {**before.get("versions", {}), "device": before.get("device")}.get(name)
        if earlier != value:
            raise UsageError(
                f"--out {folder} holds a run made with {name} {earlier}, this is {value}: their"
                " figures don't compare; use another --out, or delete the folder"
            )
    return True


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "(not given)" if value is None else str(value)


def save_optimizer(folder: Path, name: str, tuning: Tuning, curves: Curves | None) -> None:
    """Keeps what is known of one optimizer."""
    content = {
        "tuning": tuning._asdict(),
        "curves": None if curves is None else curves._asdict(),
    }
    write_json(folder / "finished" / f"{name}.json", content)


def load_optimizer(folder: Path, name: str) -> tuple[Tuning | None, Curves | None]:
    """Reads what `save_optimizer` kept; None for what isn't there."""
    path = folder / "finished" / f"{name}.json"
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


def metrics_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV, in the order of the first row's columns; not finite numbers stay empty."""
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
