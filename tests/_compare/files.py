"""Writes small files in the formats that the loaders read."""

import collections
import gzip
import pickle
import struct
import types
import typing

import numpy as np
import scipy.sparse


def write_idx(path, array):
    header = bytes([0, 0, 0x08, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def write_mnist(folder, training=60, test=20, side=4):
    """Images whose first pixels spell out their label, so that they can be learnt."""
    random = np.random.default_rng(0)
    for part, rows in (("train", training), ("t10k", test)):
        labels = np.arange(rows) % 10
        images = random.integers(0, 50, (rows, side, side))
        images.reshape(rows, -1)[np.arange(rows), labels] = 255
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)


def cora_parts(training=6, unlabelled=504, test=5, words=3, classes=2):
    """Raw features, one-hot labels and a ring of citations, with test.index shuffled."""
    random = np.random.default_rng(1)
    first = training + unlabelled
    nodes = first + test
    features = random.integers(0, 2, (nodes, words)).astype(np.float32)
    labels = np.eye(classes, dtype=np.int32)[random.integers(0, classes, nodes)]
    order = first + random.permutation(test)
    graph = collections.defaultdict(list)
    for node in range(nodes):
        graph[node] = [(node + 1) % nodes, (node - 1) % nodes]
    return types.SimpleNamespace(
        features=features,
        labels=labels,
        order=order,
        graph=graph,
        training=training,
        first=first,
        nodes=nodes,
    )


class _OldNames(pickle._Pickler):
    """Writes what Python 2 wrote: protocol 2 opcodes' names of NumPy and SciPy modules."""

    def save_global(self, obj, name=None):
        names = {
            np.ndarray: ("numpy", "ndarray"),
            np.dtype: ("numpy", "dtype"),
            scipy.sparse.csr_matrix: ("scipy.sparse.csr", "csr_matrix"),
            collections.defaultdict: ("collections", "defaultdict"),
            list: ("__builtin__", "list"),
        }
        if getattr(obj, "__name__", "") == "_reconstruct":
            module, attribute = "numpy.core.multiarray", "_reconstruct"
        else:
            module, attribute = names[obj]
        self.write(pickle.GLOBAL + f"{module}\n{attribute}\n".encode())
        self.memoize(obj)

    dispatch: typing.ClassVar = dict(pickle._Pickler.dispatch)
    dispatch[type] = save_global
    dispatch[types.FunctionType] = save_global
    dispatch[types.BuiltinFunctionType] = save_global

    def save_type(self, obj):
        self.save_global(obj)


def write_pickle(path, content):
    with path.open("wb") as file:
        _OldNames(file, protocol=3, fix_imports=False).dump(content)


def write_cora(folder, parts=None):
    parts = parts or cora_parts()
    sparse = scipy.sparse.csr_matrix
    test = parts.order
    for name, content in (
        ("x", sparse(parts.features[: parts.training])),
        ("y", parts.labels[: parts.training]),
        ("allx", sparse(parts.features[: parts.first])),
        ("ally", parts.labels[: parts.first]),
        ("tx", sparse(parts.features[test])),
        ("ty", parts.labels[test]),
        ("graph", parts.graph),
    ):
        write_pickle(folder / f"ind.cora.{name}", content)
    (folder / "ind.cora.test.index").write_text("\n".join(map(str, test)) + "\n")
    return parts
