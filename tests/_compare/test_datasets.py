"""Loaders read what is in the files, refuse what should not be, and scale by training rows."""

import gzip
import io
import pickle
import shutil

import numpy as np
import pytest
import scipy.sparse
import sklearn.datasets

from tests._compare.files import cora_parts, write_cora, write_idx, write_mnist, write_pickle
from tritia._compare import datasets, planetoid
from tritia._compare.errors import UsageError


@pytest.mark.parametrize("name", ["digits", "breast_cancer", "wine", "diabetes"])
def test_bundled_sets_are_scikit_learns(name):
    dataset = datasets.DATASETS[name](None)
    bunch = getattr(sklearn.datasets, f"load_{name}")()
    np.testing.assert_allclose(dataset.inputs, bunch.data, rtol=1e-6)
    np.testing.assert_array_equal(dataset.targets.ravel(), bunch.target)
    assert dataset.inputs.dtype == np.float32
    if dataset.task == "classification":
        assert dataset.targets.dtype == np.int32
        assert dataset.classes == len(np.unique(bunch.target))
    else:
        assert dataset.targets.dtype == np.float32
        assert dataset.classes is None


@pytest.mark.parametrize("name", ["digits", "diabetes"])
def test_no_row_plays_two_parts_and_test_rows_are_the_same_for_every_seed(name):
    dataset = datasets.DATASETS[name](None)
    splits = [datasets.split(dataset, seed) for seed in range(3)]
    for split in splits:
        together = np.concatenate([split.training, split.validation, split.test])
        assert len(together) == len(np.unique(together)) == len(dataset.targets)
        np.testing.assert_array_equal(split.test, splits[0].test)
    assert not np.array_equal(splits[0].training, splits[1].training)


def test_scaling_sees_training_rows_only():
    dataset = datasets.DATASETS["diabetes"](None)
    split = datasets.split(dataset, 0)
    changed = dataset.inputs.copy(), dataset.targets.copy()
    others = np.concatenate([split.validation, split.test])
    changed[0][others] = 1e6
    changed[1][others] = -1e6
    again = datasets.split(
        datasets.Dataset(
            **{**vars(dataset), "inputs": changed[0], "targets": changed[1]},
        ),
        0,
    )
    for before, after in zip(split, again, strict=True):
        np.testing.assert_array_equal(before, after)
    scaled = (dataset.inputs[split.training] - split.input_shift) * split.input_scale
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(0), 1, atol=1e-5)


def test_a_constant_column_is_left_finite():
    dataset = datasets.DATASETS["wine"](None)
    inputs = dataset.inputs.copy()
    inputs[:, 3] = 7.0
    split = datasets.split(datasets.Dataset(**{**vars(dataset), "inputs": inputs}), 0)
    scaled = (inputs - split.input_shift) * split.input_scale
    np.testing.assert_allclose(scaled[:, 3], 0, atol=1e-5)


def test_the_checksum_tells_data_apart():
    dataset = datasets.DATASETS["wine"](None)
    assert dataset.checksum() == datasets.DATASETS["wine"](None).checksum()
    inputs = dataset.inputs.copy()
    inputs[0, 0] += 1
    assert datasets.Dataset(**{**vars(dataset), "inputs": inputs}).checksum() != dataset.checksum()


def test_mnist_reads_pixels_and_labels_in_order(tmp_path):
    write_mnist(tmp_path, training=60, test=20)
    dataset = datasets.DATASETS["mnist"](tmp_path)
    assert dataset.inputs.shape == (80, 16)
    np.testing.assert_array_equal(
        dataset.targets, np.concatenate([np.arange(60), np.arange(20)]) % 10
    )
    np.testing.assert_array_equal(dataset.inputs.argmax(1), dataset.targets)
    assert dataset.inputs.max() == 1.0
    split = datasets.split(dataset, 0)
    np.testing.assert_array_equal(split.test, np.arange(60, 80))


def _truncate(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])


def _announce_more(folder):
    path = folder / "t10k-labels-idx1-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:-1]))


def _swap(folder):
    shutil.copy(folder / "t10k-labels-idx1-ubyte.gz", folder / "t10k-images-idx3-ubyte.gz")


def _more_labels(folder):
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.zeros(61))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "t10k-images-idx3-ubyte.gz").unlink(), "yann.lecun.com"),
        (_truncate, "cannot be read as gzip"),
        (_announce_more, "its header announces 20 bytes"),
        (_swap, "not an IDX file of bytes with 3 dimensions"),
        (_more_labels, "60 images and 61 labels"),
    ],
)
def test_damaged_mnist_is_refused_by_name(tmp_path, damage, message):
    write_mnist(tmp_path)
    damage(tmp_path)
    with pytest.raises(UsageError, match=message):
        datasets.DATASETS["mnist"](tmp_path)


def test_cora_has_the_smoothed_features_of_a_dense_calculation(tmp_path):
    parts = write_cora(tmp_path)
    dataset = datasets.DATASETS["cora"](tmp_path)

    citations = np.zeros((parts.nodes, parts.nodes))
    for node, others in parts.graph.items():
        citations[node, others] = 1
    loops = citations + np.eye(parts.nodes)
    degrees = loops.sum(1)
    operator = loops / np.sqrt(np.outer(degrees, degrees)) + np.eye(parts.nodes)
    smooth = np.hstack(
        [np.linalg.matrix_power(operator, power) @ parts.features for power in (4, 3, 2, 1, 0)]
    )
    used = np.r_[np.arange(506), np.sort(parts.order)]
    np.testing.assert_allclose(dataset.inputs, smooth[used], rtol=1e-5)
    np.testing.assert_array_equal(dataset.targets, parts.labels[used].argmax(1))
    split = datasets.split(dataset, 3)
    assert [len(rows) for rows in split[:3]] == [6, 500, 5]
    np.testing.assert_array_equal(split.input_shift, 0)
    np.testing.assert_array_equal(split.input_scale, 1)


def test_cora_reads_what_a_newer_numpy_and_scipy_write(tmp_path):
    parts = write_cora(tmp_path)
    expected = datasets.DATASETS["cora"](tmp_path).inputs
    (tmp_path / "ind.cora.tx").write_bytes(
        pickle.dumps(scipy.sparse.csr_matrix(parts.features[parts.order]), protocol=4)
    )
    np.testing.assert_array_equal(datasets.DATASETS["cora"](tmp_path).inputs, expected)


class _Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (lambda path: _Malicious(path.write_text, "pwned"), "getattr"),
        (lambda path: _Malicious(eval, f"open({str(path)!r}, 'w')"), "eval"),
        (lambda path: _Malicious(np.save, str(path), np.zeros(1)), "numpy.save"),
        (lambda path: _Malicious(np.memmap, str(path), "u1", "w+", 0, 4), "numpy.*memmap"),
    ],
)
def test_a_malicious_pickle_is_refused_by_name_and_runs_nothing(tmp_path, content, name):
    write_cora(tmp_path)
    trap = tmp_path / "trap"
    (tmp_path / "ind.cora.graph").write_bytes(pickle.dumps(content(trap), protocol=2))
    with pytest.raises(UsageError, match=rf"ind\.cora\.graph: refused.*{name}"):
        datasets.DATASETS["cora"](tmp_path)
    assert not trap.exists()


def test_csr_indices_out_of_range_are_refused(tmp_path):
    parts = write_cora(tmp_path)
    matrix = scipy.sparse.csr_matrix(parts.features[parts.order])
    matrix.indices = matrix.indices + 1000
    write_pickle(tmp_path / "ind.cora.tx", matrix)
    with pytest.raises(UsageError, match=r"ind\.cora\.tx does not hold a valid CSR matrix"):
        datasets.DATASETS["cora"](tmp_path)


def _far_citation(folder, parts):
    parts.graph[0] = [parts.nodes]
    write_pickle(folder / "ind.cora.graph", parts.graph)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder, parts: (folder / "ind.cora.ty").unlink(), "github.com/kimiyoung/planetoid"),
        (lambda folder, parts: (folder / "ind.cora.x").write_bytes(b"\x80\x02"), "not a readable"),
        (
            lambda folder, parts: (folder / "ind.cora.test.index").write_text("510\n510\n"),
            "do not belong together",
        ),
        (_far_citation, "names nodes beyond"),
        (
            lambda folder, parts: write_pickle(folder / "ind.cora.graph", [1, 2]),
            "does not hold a dict",
        ),
        (
            lambda folder, parts: write_pickle(folder / "ind.cora.y", [1, 2]),
            "does not hold a matrix of labels",
        ),
    ],
)
def test_damaged_cora_is_refused_by_name(tmp_path, damage, message):
    damage(tmp_path, write_cora(tmp_path, cora_parts()))
    with pytest.raises(UsageError, match=message):
        datasets.DATASETS["cora"](tmp_path)


@pytest.mark.parametrize("name", ["mnist", "cora"])
def test_a_missing_folder_says_where_the_files_come_from(tmp_path, name):
    source = {"mnist": "yann.lecun.com", "cora": "kimiyoung/planetoid"}[name]
    for folder in (None, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match=source):
            datasets.DATASETS[name](folder)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "getattr"),
        ("builtins", "exec"),
        ("numpy", "load"),
        ("numpy", "matrix"),
        ("scipy.sparse", "load_npz"),
        ("collections", "OrderedDict"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "_reconstruct.__globals__"),
    ],
)
def test_the_unpickler_admits_no_other_name(module, name):
    with pytest.raises(UsageError, match=f"refused, it asks for {module}.{name}"):
        planetoid._PlanetoidUnpickler(io.BytesIO()).find_class(module, name)
