"""Cora from its Planetoid files, with features smoothed over the citation graph.

The files are pickles written by Python 2; `array_pickle` reads them without trusting them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tritia._compare import array_pickle, files
from tritia._compare.errors import UsageError

SOURCE = (
    "ind.cora.x, .y, .tx, .ty, .allx, .ally, .graph and .test.index from"
    " https://github.com/kimiyoung/planetoid (folder data)"
)

_VALIDATION_ROWS = 500
_POWERS = 4
_MOST_BYTES = 2**28  # of a file; the largest of Cora has half a million
_MOST_WORDS = 2**15  # Cora has 1433: the features become a dense table


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

    parts: dict[str, Any] = {"graph": _read(folder, "graph", _neighbours)}
    for part in ("x", "tx", "allx"):
        parts[part] = _read(folder, part, lambda found: array_pickle.csr_matrix(found, _MOST_WORDS))
    for part in ("y", "ty", "ally"):
        parts[part] = _read(folder, part, lambda found: array_pickle.array(found, 2))
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
        and parts["y"].shape[1] == parts["ally"].shape[1] > 0
        and parts["allx"].shape[1] > 0
        and len(parts["y"]) > 0
        and len(order) > 0
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


def _adjacency(folder: Path, graph: np.ndarray, nodes: int) -> Any:
    """The symmetric 0/1 matrix of the graph, without self-loops."""
    import scipy.sparse

    if graph.size and (graph.min() < 0 or graph.max() >= nodes):
        raise UsageError(
            f"{folder / 'ind.cora.graph'} names nodes beyond the {nodes} of the other files"
        )
    edges = graph[graph[:, 0] != graph[:, 1]]
    ones = np.ones(len(edges))
    matrix = scipy.sparse.coo_matrix((ones, (edges[:, 0], edges[:, 1])), shape=(nodes, nodes))
    matrix = (matrix + matrix.T).tocsr()
    matrix.data[:] = 1.0
    return matrix


def _neighbours(graph: Any) -> np.ndarray:
    """The edges of a dict of neighbours, int64 of shape (edges, 2)."""
    if type(graph) is not dict:
        raise UsageError("it does not hold a dict of neighbours")
    edges = []
    for node, others in graph.items():
        if type(others) is not list or any(type(other) is not int for other in (node, *others)):
            raise UsageError("it does not hold lists of node numbers")
        edges += [(node, other) for other in others]
    try:
        return np.asarray(edges, np.int64).reshape(-1, 2)
    except OverflowError:
        raise UsageError("it does not hold lists of node numbers") from None


def _read_test_index(path: Path) -> np.ndarray:
    try:
        lines = files.read_regular(path, _MOST_BYTES).decode().split()
        return np.asarray([int(line) for line in lines], np.int64)
    except FileNotFoundError:
        raise UsageError(f"{path} is missing; cora needs {SOURCE}") from None
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"{path} cannot be read as one node number a line ({error})") from None


def _read(folder: Path, part: str, convert: Callable[[Any], Any]) -> Any:
    path = folder / f"ind.cora.{part}"
    try:
        content = files.read_regular(path, _MOST_BYTES)
    except FileNotFoundError:
        raise UsageError(f"{path} is missing; cora needs {SOURCE}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error})") from None
    try:
        return convert(array_pickle.load(content))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
