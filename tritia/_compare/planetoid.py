"""Cora from its Planetoid files, with features smoothed over the citation graph.

The files are pickles written by Python 2. A pickle can call anything it can name, so these go
through an unpickler that admits only the handful of names the files need.
"""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tritia._compare.errors import UsageError

SOURCE = (
    "ind.cora.x, .y, .tx, .ty, .allx, .ally, .graph and .test.index from"
    " https://github.com/kimiyoung/planetoid (folder data)"
)

_VALIDATION_ROWS = 500
_POWERS = 4


class Nodes(NamedTuple):
    """The labelled nodes that the standard division uses.

    Attributes:
      inputs: smoothed features, float32 of shape (rows, 5 * words).
      targets: classes, int32 of shape (rows,).
      training_rows: numbers of the training rows, in `inputs`.
      validation_rows: numbers of the validation rows.
      test_rows: numbers of the test rows.
    """

    inputs: np.ndarray
    targets: np.ndarray
    training_rows: np.ndarray
    validation_rows: np.ndarray
    test_rows: np.ndarray


def load_cora(folder: Path) -> Nodes:
    r"""Reads Cora and smooths its features over the graph.

    With C the adjacency matrix, D the degrees of C + I, X the bag of words and

    .. math:: A = D^{-1/2} (C + I) D^{-1/2} + I,

    the features are :math:`[A^4 X, A^3 X, A^2 X, A X, X]`, as for a graph-augmented MLP. The graph
    is seen whole, as is usual (the task is transductive); labels of test nodes are not.

    Args:
      folder: where the `ind.cora.*` files are.

    Returns:
      The `Nodes` of the standard division: the labelled rows of `x` train, the 500 after them
      validate, those of `test.index` test.

    Raises:
      UsageError: a file is missing, corrupt, or asks for a name outside the few admitted.
    """
    import scipy.sparse

    parts = {
        part: _read_pickle(folder / f"ind.cora.{part}")
        for part in ("x", "y", "tx", "ty", "allx", "ally", "graph")
    }
    for part in ("x", "tx", "allx"):
        parts[part] = _checked_csr(folder / f"ind.cora.{part}", parts[part])
    for part in ("y", "ty", "ally"):
        labels = parts[part]
        if (
            not isinstance(labels, np.ndarray)
            or labels.ndim != 2
            or labels.dtype.kind not in "biuf"
        ):
            raise UsageError(f"{folder / f'ind.cora.{part}'} does not hold a matrix of labels")
    order = _read_test_index(folder / "ind.cora.test.index")

    first_test = parts["allx"].shape[0]
    nodes = first_test + len(order)
    agree = (
        len(parts["y"]) == parts["x"].shape[0]
        and len(parts["ally"]) == first_test
        and parts["tx"].shape[0] == len(parts["ty"]) == len(order)
        and np.array_equal(np.sort(order), np.arange(first_test, nodes))
        and parts["allx"].shape[1] == parts["tx"].shape[1]
        and parts["ally"].shape[1] == parts["ty"].shape[1]
        and len(parts["y"]) + _VALIDATION_ROWS <= first_test
    )
    if not agree:
        raise UsageError(f"{folder}: the ind.cora.* files do not belong together; get {SOURCE}")

    # Rows of tx and ty come in the order of test.index, which is shuffled.
    words = scipy.sparse.vstack([parts["allx"], parts["tx"]]).tolil()
    labels = np.concatenate([parts["ally"], parts["ty"]])
    words[order] = parts["tx"]
    labels[order] = parts["ty"]
    smoothed = _smooth(words.tocsr(), _adjacency(folder, parts["graph"], nodes))

    training = np.arange(len(parts["y"]))
    validation = np.arange(len(training), len(training) + _VALIDATION_ROWS)
    used = np.concatenate([training, validation, np.sort(order)])
    first = len(training) + len(validation)
    return Nodes(
        np.hstack([block[used].toarray() for block in smoothed]).astype(np.float32),
        labels[used].argmax(1).astype(np.int32),
        training,
        validation,
        np.arange(first, len(used)),
    )


def _smooth(words: Any, adjacency: Any) -> list[Any]:
    import scipy.sparse

    identity = scipy.sparse.identity(adjacency.shape[0], format="csr")
    with_loops = adjacency + identity
    scale = scipy.sparse.diags(1.0 / np.sqrt(np.asarray(with_loops.sum(1)).ravel()))
    operator = (scale @ with_loops @ scale + identity).tocsr()
    powers = [words.astype(np.float64)]
    for _ in range(_POWERS):
        powers.append(operator @ powers[-1])
    return powers[::-1]


def _adjacency(folder: Path, graph: Any, nodes: int) -> Any:
    """The symmetric 0/1 matrix of the graph, without self-loops."""
    import scipy.sparse

    path = folder / "ind.cora.graph"
    if not isinstance(graph, dict):
        raise UsageError(f"{path} does not hold a dict of neighbours")
    try:
        edges = np.asarray(
            [(node, other) for node, others in graph.items() for other in others], np.int64
        ).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{path} does not hold lists of node numbers") from None
    if edges.size and (edges.min() < 0 or edges.max() >= nodes):
        raise UsageError(f"{path} names nodes beyond the {nodes} of the other files")
    edges = edges[edges[:, 0] != edges[:, 1]]
    ones = np.ones(len(edges))
    matrix = scipy.sparse.coo_matrix((ones, (edges[:, 0], edges[:, 1])), shape=(nodes, nodes))
    matrix = (matrix + matrix.T).tocsr()
    matrix.data[:] = 1.0
    return matrix


def _read_test_index(path: Path) -> np.ndarray:
    try:
        return np.asarray([int(line) for line in path.read_text().split()])
    except FileNotFoundError:
        raise UsageError(f"{path} is missing; cora needs {SOURCE}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as one node number a line ({error})") from None


def _read_pickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _PlanetoidUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise UsageError(f"{path} is missing; cora needs {SOURCE}") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except Exception as error:  # A damaged pickle can fail in any way.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(f"{path} is not a readable pickle ({reason})") from None


class _PlanetoidUnpickler(pickle.Unpickler):
    """Builds NumPy arrays, CSR matrices and dicts of lists, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        }:
            return _reconstruct
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if name == "csr_matrix" and module in {"scipy.sparse.csr", "scipy.sparse._csr"}:
            return _CsrParts
        if (module, name) == ("collections", "defaultdict"):
            return collections.defaultdict
        if (module, name) in {("__builtin__", "list"), ("builtins", "list")}:
            return list
        raise UsageError(
            f"refused, it asks for {module}.{name}; only NumPy arrays, scipy.sparse.csr_matrix and"
            " collections.defaultdict(list) are admitted"
        )


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> np.ndarray:
    """What NumPy's own `_reconstruct` does, for plain arrays; their content follows by BUILD."""
    if subtype is not np.ndarray:
        raise UsageError(f"refused, it asks for an array of type {subtype!r}")
    return np.ndarray.__new__(np.ndarray, shape, typecode)


class _CsrParts:
    """Receives a pickled `csr_matrix` attribute by attribute, whatever SciPy wrote it."""


def _checked_csr(path: Path, parts: Any) -> Any:
    """Builds the matrix through its constructor, which checks the indices: BUILD would not."""
    import scipy.sparse

    try:
        state = vars(parts)
        matrix = scipy.sparse.csr_matrix(
            (state["data"], state["indices"], state["indptr"]),
            shape=state["_shape"] if "_shape" in state else state["shape"],
        )
        matrix.check_format(full_check=True)
    except (TypeError, KeyError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(f"{path} does not hold a valid CSR matrix ({reason})") from None
    return matrix
