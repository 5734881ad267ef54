"""A folder of results that a run which was interrupted or killed goes on with.

`config.json` says what the folder holds; every file is written beside its place and moved there, so
that it is either whole or absent. Only the same request goes on with a folder, on the same data,
with the same versions and device; and only one process at a time.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from tritia._compare import files
from tritia._compare.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows, where two processes in one folder go unnoticed
    fcntl = None

CONFIG = "config.json"
LOG = "run.log"
LOCK = ".lock"

WRITING = threading.RLock()
"""Held while a file is written; whoever ends the process takes it first."""

_MOST_BYTES = 2**30  # of a file of results
_PROBE = bytes(2**16)


def write(path: Path, content: str | bytes) -> None:
    """Writes a file as a whole or not at all.

    A name on the command line may hold bytes that are not UTF-8; they are written as they came.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    encoded = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with WRITING:
        try:
            with temporary.open("wb") as file:
                file.write(encoded)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes standard JSON: numbers that are not finite become null."""
    write(path, json.dumps(as_json(content), indent=1, allow_nan=False) + "\n")


def read_json(path: Path, advice: str = "delete it to compute it again") -> Any:
    """Reads JSON that `write_json` wrote.

    Args:
      path: of the file.
      advice: what helps where it is damaged.

    Returns:
      Its content.

    Raises:
      UsageError: the file is not JSON.
    """
    try:
        return json.loads(files.read_regular(path, _MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is damaged ({error}); {advice}") from None


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
        "devices": jax.local_device_count(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
    }


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Makes the folder, writes to it to see that it can, and keeps other processes out.

    The lock is the operating system's: that of a process which was killed is free. A folder that
    was made and stayed empty is removed in the end.

    Args:
      folder: where the results go.

    Raises:
      UsageError: the folder can't be written, or another process holds it.
    """
    made = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(folder))
            _held.append((folder, made))
            stack.callback(_let_go, folder, made)
            probe = folder / f".writable.{os.getpid()}"
            write(probe, _PROBE)
            probe.unlink()
        except OSError as error:
            raise UsageError(
                f"cannot write to `out` {folder} ({error.strerror or error}); choose another folder"
            ) from None
        yield


_held: list[tuple[Path, list[Path]]] = []


def tidy_held() -> None:
    """Does what the end of every `hold` does; for a process that ends without it."""
    for folder, made in list(_held):
        _tidy(folder, made)


def _let_go(folder: Path, made: list[Path]) -> None:
    _held.remove((folder, made))
    _tidy(folder, made)


def _tidy(folder: Path, made: list[Path]) -> None:
    with contextlib.suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)
        for place in made:
            place.rmdir()  # which only removes it where it is empty


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock; raises UsageError where another process does."""
    if fcntl is None:
        yield
        return
    with _open_lock(folder):
        yield


def _open_lock(folder: Path) -> TextIO:
    assert fcntl is not None
    while True:
        file = (folder / LOCK).open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(20).strip()
            file.close()
            raise UsageError(
                f"another process ({owner or 'of unknown number'}) writes to `out` {folder}; wait"
                " for it, or use another `out`"
            ) from None
        except OSError:  # a file system without locks
            return file
        # Whoever held the lock before has removed the file on leaving: lock the one that is there.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), (folder / LOCK).stat()):
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
                return file
        file.close()


def earlier_config(folder: Path, outputs: Sequence[str]) -> dict[str, Any] | None:
    """Reads the config.json of results that a folder holds.

    Args:
      folder: where the results go.
      outputs: the names of what is written there besides config.json.

    Returns:
      What it holds, with "arguments", "dataset" and "versions"; None where there are no results.

    Raises:
      UsageError: there are files that this would overwrite, or config.json is damaged.
    """
    taken = [name for name in outputs if os.path.lexists(folder / name)]
    if not os.path.lexists(folder / CONFIG):
        if taken:
            raise UsageError(
                f"`out` {folder} holds {taken[0]} but no {CONFIG}; it would be overwritten: use"
                " another `out`, or delete the folder"
            )
        return None
    before = read_json(folder / CONFIG, "use another `out`, or delete the folder")
    if not isinstance(before, dict) or any(
        not isinstance(before.get(part), dict) for part in ("arguments", "dataset", "versions")
    ):
        raise UsageError(
            f"{folder / CONFIG} was not written by this command; use another `out`, or delete the"
            " folder"
        )
    return before if taken else {**before, "interrupted": True}


def results_before(
    folder: Path,
    config: Mapping[str, Any],
    outputs: Sequence[str],
    may_grow: Collection[str] = (),
    same_machine: bool = True,
) -> dict[str, Any] | None:
    """Checks that what a folder holds, if anything, is the results of this request.

    Args:
      folder: where the results go.
      config: what config.json is to hold: "arguments" by name, "dataset" with its "name" and
        "sha256", and what `environment` returns.
      outputs: the names of what is written there besides config.json.
      may_grow: arguments of which there may be more than before: numbers, or lists of names.
      same_machine: whether versions and device must be the same.

    Returns:
      What config.json holds, where the folder holds (some of) the results; None otherwise.

    Raises:
      UsageError: it holds something else; the message names what differs.
    """
    before = earlier_config(folder, outputs)
    if before is None:
        return None
    now = as_json(config)
    if set(before["arguments"]) != set(now["arguments"]):
        raise UsageError(
            f"`out` {folder} holds the results of another command; use another `out`, or delete the"
            " folder"
        )
    if "interrupted" in before:  # before there was any result
        return None
    _check_same(folder, before, now, may_grow)
    if same_machine:
        _check_machine(folder, before, now)
    return before


_FREE = ("data_dir", "data", "x_axis", "goal")  # the checksum tells of data; the rest is drawing


def _check_same(
    folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], may_grow: Collection[str]
) -> None:
    for name, value in now["arguments"].items():
        earlier = before["arguments"][name]
        if name in _FREE or earlier == value or (name in may_grow and _is_more(earlier, value)):
            continue
        words = name.replace("_", " ")
        raise UsageError(
            f"`out` {folder} holds a run with {words} {_shown(earlier)}, this one has {words}"
            f" {_shown(value)}; use another `out`, or delete the folder"
        )
    if before["dataset"].get("sha256") != now["dataset"]["sha256"]:
        raise UsageError(
            f"`out` {folder} holds a run on other data (the checksum of {now['dataset']['name']}"
            " differs); use another `out`, or delete the folder"
        )


def _is_more(earlier: Any, value: Any) -> bool:
    if isinstance(earlier, list):
        return set(map(str, earlier)) <= set(map(str, value))
    return isinstance(earlier, int) and earlier <= value


def _check_machine(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name, value in {**now["versions"], "device": now["device"]}.items():
        earlier = {**before["versions"], "device": before.get("device")}.get(name)
        if earlier != value:
            raise UsageError(
                f"`out` {folder} holds a run made with {name} {earlier}, this is {value}: their"
                " figures don't compare; use another `out`, or delete the folder"
            )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        text = ",".join(map(str, value)) or "none"
        return text if len(text) <= 80 else f"{text[:77]}..."
    return "not given" if value is None else str(value)
