"""A folder of results that a run which was interrupted or killed goes on with.

`config.json` says what the folder holds; everything else in it is written beside its place and
moved there, so that a file is either whole or absent. Only the same request goes on with a folder,
on the same data, with the same versions and device.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tritia._compare.errors import UsageError

CONFIG = "config.json"
LOG = "run.log"


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
    write(path, json.dumps(as_json(content), indent=1, allow_nan=False) + "\n")


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


def as_json(content: Any) -> Any:
    """Returns content as JSON keeps it: lists, dicts, strings, numbers; null where not finite."""
    if isinstance(content, Mapping):
        return {str(key): as_json(value) for key, value in content.items()}
    if isinstance(content, np.ndarray):
        return as_json(content.tolist())
    if isinstance(content, (list, tuple)):
        return [as_json(value) for value in content]
    if isinstance(content, (float, np.floating)):
        return float(content) if math.isfinite(content) else None
    if isinstance(content, Path):
        return str(content)
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


def open_folder(folder: Path, config: Mapping[str, Any], outputs: Sequence[str]) -> bool:
    """Makes the folder, or checks that what it holds is the same request's.

    Args:
      folder: where the results go.
      config: what config.json is to hold: "arguments" by name, "dataset" with its "name" and
        "sha256", and what `environment` returns.
      outputs: the names of what is written there besides config.json.

    Returns:
      True where the folder already held (part of) the results of this request.

    Raises:
      UsageError: the folder can't be written, or holds something else; the message names what
        differs.
    """
    check_writable(folder)
    if not (folder / CONFIG).exists():
        taken = [name for name in outputs if (folder / name).exists()]
        if taken:
            raise UsageError(
                f"--out {folder} holds {taken[0]} but no {CONFIG}; it would be overwritten:"
                " choose another folder"
            )
        write_json(folder / CONFIG, config)
        return False
    _check_same(folder, read_json(folder / CONFIG), as_json(config))
    return True


def check_writable(folder: Path) -> None:
    """Makes the folder and writes a file there.

    Raises:
      UsageError: it can't be done.
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


def _check_same(folder: Path, before: Any, now: Mapping[str, Any]) -> None:
    if not isinstance(before, dict) or not isinstance(before.get("arguments"), dict):
        raise UsageError(f"{folder / CONFIG} was not written by this command; use another --out")
    for name, value in now["arguments"].items():
        earlier = before["arguments"].get(name)
        if name != "data_dir" and earlier != value:
            words = name.replace("_", " ")
            raise UsageError(
                f"--out {folder} holds a run with {words} {_shown(earlier)}, this one has {words}"
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


def _shown(value: Any) -> str:
    if isinstance(value, list):
        text = ",".join(map(str, value)) or "none"
        return text if len(text) <= 80 else f"{text[:77]}..."
    return "not given" if value is None else str(value)
