"""Pickles of NumPy arrays, CSR matrices and dicts of lists, read without trusting them.

A pickle can call anything it can name, and NumPy's own `ndarray` and `dtype` take a state from it
that can corrupt memory. So names stand for classes of this module, which only keep what the file
says; `array` and `csr_matrix` check it, and make the real thing from its bytes. Only the opcodes
that such files need are known: none that hashes a nested value, allocates a size that the file
claims, or reaches outside of the file.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tritia._compare.errors import UsageError

_KINDS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")


class Dtype:
    """Stands for `numpy.dtype`; keeps its code and byte order."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True):
        """Takes what `numpy.dtype` is pickled with."""
        self.code, self.order = code, "|"

    def receive(self, state: Any) -> None:
        """Takes (version, byte order, subdtype, names, fields, size, alignment, flags, ...)."""
        if (
            type(state) is not tuple
            or len(state) < 5
            or any(part is not None for part in state[2:5])
        ):
            raise UsageError("it holds a structured dtype")
        self.order = state[1]


class Array:
    """Stands for `numpy.ndarray`; keeps its shape, dtype, order and bytes."""

    state: Any = None

    def receive(self, state: Any) -> None:
        """Takes (version, shape, dtype, Fortran order, bytes)."""
        self.state = state


class Csr:
    """Stands for `scipy.sparse.csr_matrix`; keeps its attributes, whatever SciPy wrote them."""

    def __init__(self) -> None:
        """Starts without attributes."""
        self.attributes: dict[str, Any] = {}

    def receive(self, state: Any) -> None:
        """Takes a dict of attributes."""
        if type(state) is not dict:
            raise UsageError("it holds a csr_matrix without attributes")
        self.attributes = state


def _reconstruct(subtype: Any, shape: Any, code: Any) -> Array:
    if subtype is not Array:
        raise UsageError("refused, it asks for an array of another type than ndarray")
    return Array()


def _default_dict(factory: Any = None) -> dict[Any, Any]:
    """Makes a plain dict: nobody asks for keys that are missing."""
    return {}


def _empty_list() -> list[Any]:
    return []


_CALLS = (Dtype, _reconstruct, _default_dict, _empty_list)


class Unpickler(pickle._Unpickler):  # the one written in Python: its opcodes can be chosen
    """Builds the stand-ins, dicts, lists, tuples, numbers and strings, and nothing else."""

    stack: list[Any]
    if TYPE_CHECKING:

        def pop_mark(self) -> list[Any]: ...

    dispatch: ClassVar[dict[int, Any]] = {
        code[0]: pickle._Unpickler.dispatch[code[0]]
        for code in (
            *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.MEMOIZE),
            *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT),
            *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
            *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
            *(pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2),
            *(pickle.LONG, pickle.LONG1, pickle.FLOAT, pickle.BINFLOAT),
            *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING),
            *(pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
            *(pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8),
            *(pickle.TUPLE, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
            *(pickle.LIST, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
            *(pickle.EMPTY_DICT, pickle.GLOBAL, pickle.STACK_GLOBAL),
        )
    }

    def find_class(self, module: str, name: str) -> Any:
        """Returns what stands for a name."""
        if (module, name) in {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        }:
            return _reconstruct
        if (module, name) == ("numpy", "ndarray"):
            return Array
        if (module, name) == ("numpy", "dtype"):
            return Dtype
        if name == "csr_matrix" and module in {"scipy.sparse.csr", "scipy.sparse._csr"}:
            return Csr
        if (module, name) == ("collections", "defaultdict"):
            return _default_dict
        if (module, name) in {("__builtin__", "list"), ("builtins", "list")}:
            return _empty_list
        raise UsageError(
            f"refused, it asks for {module}.{name}; only NumPy arrays, scipy.sparse.csr_matrix and"
            " collections.defaultdict(list) are admitted"
        )

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not any(function is call for call in _CALLS):
            raise UsageError("refused, it calls what it must not")
        self.stack.append(function(*arguments))

    def _new_object(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if kind is not Csr or arguments != ():
            raise UsageError("refused, it makes what it must not")
        self.stack.append(Csr())

    def _build(self) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) not in (Array, Dtype, Csr):
            raise UsageError("refused, it changes what it must not")
        self.stack[-1].receive(state)

    def _set_items(self) -> None:
        self._fill(self.pop_mark())

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _fill(self, items: list[Any]) -> None:
        filled = self.stack[-1]
        if type(filled) is not dict or len(items) % 2:
            raise UsageError("it fills something other than a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (int, str):  # hashing a nested tuple may take for ever
                raise UsageError("it holds a dict whose keys are not numbers or names")
            filled[key] = value

    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.NEWOBJ[0]] = _new_object
    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items


def load(content: bytes) -> Any:
    """Reads a pickle.

    Args:
      content: of the file.

    Returns:
      What it holds, with `Array` and `Csr` in the places of arrays and matrices.

    Raises:
      UsageError: it is damaged, or asks for something that is not admitted.
    """
    try:
        return Unpickler(io.BytesIO(content), encoding="latin1").load()
    except UsageError:
        raise
    except Exception as error:  # A damaged pickle can fail in any way.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"not a readable pickle ({reason[:200]})") from None


def array(found: Any, dimensions: int) -> np.ndarray:
    """Makes the array that an `Array` describes.

    Args:
      found: what the file holds.
      dimensions: how many it must have.

    Returns:
      The array, of booleans, integers or floats.

    Raises:
      UsageError: it is something else, or its bytes don't fill its shape.
    """
    if type(found) is not Array or type(found.state) is not tuple or len(found.state) != 5:
        raise UsageError("it is not an array")
    _, shape, dtype, fortran, content = found.state
    if (
        type(dtype) is not Dtype
        or dtype.code not in _KINDS
        or dtype.order not in ("<", ">", "|", "=")
    ):
        raise UsageError("it is not an array of numbers")
    if type(content) is str:  # as Python 2 wrote bytes
        try:
            content = content.encode("latin1")
        except UnicodeEncodeError:
            raise UsageError("its content is not bytes") from None
    if type(content) is not bytes:
        raise UsageError("its content is not bytes")
    if type(shape) is not tuple or any(type(size) is not int or size < 0 for size in shape):
        raise UsageError("its shape is not a tuple of sizes")
    if len(shape) != dimensions:
        raise UsageError(f"it has {len(shape)} dimensions, not {dimensions}")
    real = np.dtype(dtype.code).newbyteorder(dtype.order)
    if math.prod(shape) * real.itemsize != len(content):
        raise UsageError(f"{len(content)} bytes are not an array of shape {shape} of {dtype.code}")
    if real.kind == "b" and content.strip(b"\0\1"):
        raise UsageError("its booleans are neither 0 nor 1")
    flat = np.frombuffer(content, real)
    return flat.reshape(shape, order="F" if fortran is True or fortran == 1 else "C").astype(
        real.newbyteorder("=")
    )


def csr_matrix(found: Any, most_columns: int) -> Any:
    """Makes the matrix that a `Csr` describes.

    Args:
      found: what the file holds.
      most_columns: how many columns it may have: a sparse file can claim any number.

    Returns:
      The `scipy.sparse.csr_matrix`, its indices checked.

    Raises:
      UsageError: it is something else, or not a valid matrix.
    """
    import scipy.sparse

    if type(found) is not Csr:
        raise UsageError("it is not a csr_matrix")
    parts = found.attributes
    shape = parts.get("_shape", parts.get("shape"))
    if type(shape) is not tuple or len(shape) != 2 or any(type(size) is not int for size in shape):
        raise UsageError("not a valid CSR matrix (its shape is not a pair of sizes)")
    if not 0 <= shape[1] <= most_columns:
        raise UsageError(f"not a valid CSR matrix (it has {shape[1]} columns)")
    try:
        data, indices, starts = (array(parts.get(k), 1) for k in ("data", "indices", "indptr"))
        if indices.dtype.kind not in "iu" or starts.dtype.kind not in "iu":
            raise UsageError("its indices are not integers")
        if not 0 <= shape[0] == len(starts) - 1:
            raise UsageError(f"{shape[0]} rows, but {len(starts)} row pointers")
        matrix = scipy.sparse.csr_matrix(
            (data.astype(np.float64), indices.astype(np.int64), starts.astype(np.int64)), shape
        )
        matrix.check_format(full_check=True)
    except (UsageError, TypeError, ValueError) as error:
        raise UsageError(f"not a valid CSR matrix ({' '.join(str(error).split())})") from None
    return matrix
