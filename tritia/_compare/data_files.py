"""Files of rows that a user brings: CSV, Parquet or NumPy's npz, read into named columns."""

from __future__ import annotations

import csv
import importlib.util
import io
import numbers
import re
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tritia._compare import files
from tritia._compare.errors import UsageError

if TYPE_CHECKING:
    import pandas

Columns = Mapping[str, np.ndarray]
"""By name: float64, NaN where missing, shape (rows,) or (rows, width); or text as objects of shape
(rows,), None where missing, where at least one is no number."""

_MOST_BYTES = 2**31
_SEPARATORS = ",;\t"


def read(path: Path, unread: Collection[str] = ()) -> Columns:
    """Reads a file by the ending of its name.

    Args:
      path: a .csv, .tsv, .parquet or .npz file.
      unread: columns that may hold anything; zeros stand for what they hold.

    Returns:
      Its `Columns`, all of the same number of rows, at least one.

    Raises:
      UsageError: it is missing, of another kind, damaged, empty, or holds what is neither numbers
        nor text.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path} is not one of {', '.join(_READERS)}")
    try:
        content = files.read_regular(path, _MOST_BYTES)
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error})") from None
    if not content:
        raise UsageError(f"{path} is empty")
    columns = reader(path, content, unread)
    if not columns or not len(next(iter(columns.values()))):
        raise UsageError(f"{path} has no rows")
    return columns


def _csv(path: Path, content: bytes, unread: Collection[str]) -> Columns:
    pandas = _pandas()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 (byte {content[error.start]:#04x} at position {error.start});"
            " save it in that encoding"
        ) from None
    if "\0" in text:
        raise UsageError(f"{path} is not text: it holds NUL characters")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    head = text.lstrip("\n").partition("\n")[0]
    separator = max(_SEPARATORS, key=head.count)
    _check_rows(path, text, separator)
    # Where semicolons stand between cells, a comma may stand before the decimals.
    decimal = "," if separator == ";" and not re.search(r"\d\.\d", text) else "."
    try:
        table = pandas.read_csv(
            io.StringIO(text),
            sep=separator,
            index_col=False,
            skipinitialspace=True,
            decimal=decimal,
            low_memory=False,
        )
    except (ValueError, OverflowError) as error:  # ParserError is a ValueError
        raise UsageError(f"{path} cannot be read as CSV ({_reason(error)})") from None
    return _frame(path, table, unread)


def _check_rows(path: Path, text: str, separator: str) -> None:
    """Refuses what pandas would take: rows that are too short, and a file without names."""
    names: list[str] | None = None
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
    try:
        for row in reader:
            if not row:
                continue
            if names is None:
                names = [name.strip() for name in row]
            elif len(row) != len(names):
                raise UsageError(
                    f"{path}: line {reader.line_num} has {len(row)} fields, the header has"
                    f" {len(names)}"
                )
    except csv.Error as error:
        raise UsageError(f"{path}: line {reader.line_num} cannot be read ({error})") from None
    if names is None:
        raise UsageError(f"{path} is empty")
    if all(is_number(name) for name in names):
        raise UsageError(
            f"{path} has no header: its first line holds {_some(names)}, not names of columns"
        )
    for name in names:
        if names.count(name) > 1 and name:
            raise UsageError(f"{path} has two columns {name!r}")


def _parquet(path: Path, content: bytes, unread: Collection[str]) -> Columns:
    pandas = _pandas()
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError(f"{path}: Parquet files need pip install pyarrow")
    try:
        table = pandas.read_parquet(io.BytesIO(content), engine="pyarrow")
    except Exception as error:  # A damaged file can fail in any way.
        raise UsageError(f"{path} cannot be read as Parquet ({_reason(error)})") from None
    return _frame(path, table, unread)


def _pandas() -> Any:
    if importlib.util.find_spec("pandas") is None:
        raise UsageError('reading it needs pandas: pip install "tritia[compare]"')
    import pandas

    return pandas


def _frame(path: Path, table: pandas.DataFrame, unread: Collection[str]) -> Columns:
    from pandas.api import types

    columns: dict[str, np.ndarray] = {}
    for name in table.columns:
        values, text = table[name], str(name).strip()
        if text.startswith("Unnamed: "):  # the row numbers that pandas writes into a CSV file
            continue
        if text in columns or getattr(values, "ndim", 1) != 1:
            raise UsageError(f"{path} has two columns {text!r}")
        if text in unread:
            columns[text] = np.zeros(len(table))
            continue
        if types.is_complex_dtype(values):
            raise _unusable(path, text, values.dtype)
        if types.is_numeric_dtype(values):  # booleans too
            columns[text] = values.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            objects, missing = values.astype(object).to_numpy(), values.isna().to_numpy()
            for value in objects[~missing]:
                if not isinstance(value, (str, numbers.Number)):  # dates, lists, bytes
                    raise _unusable(path, text, type(value).__name__)
            columns[text] = _texts(objects, missing)
    return columns


def _unusable(path: Path, name: str, kind: Any) -> UsageError:
    return UsageError(
        f"column {name!r} of {path} holds {kind}, neither numbers nor text; `drop` leaves it out"
    )


def _npz(path: Path, content: bytes, unread: Collection[str]) -> Columns:
    columns: dict[str, np.ndarray] = {}
    rows: dict[str, int] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as parts:
            expanded = sum(part.file_size for part in parts.infolist())
        if expanded > _MOST_BYTES:
            raise UsageError(f"{path} expands to {expanded} bytes; at most {_MOST_BYTES} are read")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            for name in arrays.files:
                found = arrays[name]
                if not found.ndim:
                    raise UsageError(f"{path}: array {name!r} is a single value, not rows")
                columns[name] = (
                    np.zeros(len(found)) if name in unread else _array(path, name, found)
                )
                rows[name] = len(found)
    except UsageError:
        raise
    except Exception as error:  # A damaged file can fail in any way.
        raise UsageError(f"{path} cannot be read as npz ({_reason(error)})") from None
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise UsageError(f"{path}: its arrays differ in their rows ({counts})")
    return columns


def _array(path: Path, name: str, found: np.ndarray) -> np.ndarray:
    if found.dtype.kind in "biuf":
        return found.reshape(len(found), -1).astype(np.float64)[:, 0 if found.ndim == 1 else ...]
    if found.dtype.kind in "SU" and found.ndim == 1:
        try:
            words = found.astype(str).astype(object)
        except UnicodeDecodeError:
            raise UsageError(f"{path}: array {name!r} holds bytes that are not text") from None
        return _texts(words, words == "")
    raise UsageError(
        f"{path}: array {name!r} of shape {found.shape} holds {found.dtype}, neither numbers nor a"
        " column of text"
    )


def _texts(objects: np.ndarray, missing: np.ndarray) -> np.ndarray:
    if all(gone or is_number(str(value)) for value, gone in zip(objects, missing, strict=True)):
        return np.array(
            [
                np.nan if gone else float(str(value))
                for value, gone in zip(objects, missing, strict=True)
            ]
        )
    found = np.empty(len(objects), object)
    found[:] = [
        None if gone else str(value).strip() for value, gone in zip(objects, missing, strict=True)
    ]
    return found


def is_number(text: str) -> bool:
    """Whether a text can be read as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _some(names: list[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 40 else f"{text[:37]}..."


_READERS: dict[str, Callable[[Path, bytes, Collection[str]], Columns]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".npz": _npz,
}
