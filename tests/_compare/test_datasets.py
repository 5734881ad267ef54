"""Loaders read what is in the files, refuse what should not be, and scale by training rows."""

import gzip
import io
import os
import pickle
import shutil
import struct
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
import sklearn.datasets

from tests._compare.files import cora_parts, write_cora, write_idx, write_mnist, write_pickle
from tritia._compare import array_pickle, datasets
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
    with pytest.raises(UsageError, match=r"ind\.cora\.tx: not a valid CSR matrix"):
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
            "it is not an array",
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
        array_pickle.Unpickler(io.BytesIO()).find_class(module, name)


def _grow_without_end(folder):
    content = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content + bytes(2**28), 1))


def _announce(*shape):
    def damage(folder):
        header = bytes([0, 0, 0x08, 3]) + struct.pack(">3I", *shape)
        path = folder / "train-images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(header + bytes(960)))

    return damage


def _pipe(folder):
    (folder / "train-images-idx3-ubyte.gz").unlink()
    os.mkfifo(folder / "train-images-idx3-ubyte.gz")


def _endless(folder):
    (folder / "train-images-idx3-ubyte.gz").unlink()
    (folder / "train-images-idx3-ubyte.gz").symlink_to("/dev/zero")


def _directory(folder):
    (folder / "train-images-idx3-ubyte.gz").unlink()
    (folder / "train-images-idx3-ubyte.gz").mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_grow_without_end, "announces 960 bytes of shape .*, it holds more"),
        (_announce(60, 0, 0), r"announces 0 bytes of shape \(60, 0, 0\)"),
        (_announce(2**31, 2**10, 2**10), "announces 2251799813685248 bytes"),
        (_announce(60, 4, 5), "it holds 960"),
        (_pipe, "is not a regular file"),
        (_endless, "is not a regular file"),
        (_directory, "is not a regular file|cannot be opened"),
    ],
)
def test_no_file_is_read_beyond_what_it_announces(tmp_path, damage, message):
    write_mnist(tmp_path)
    damage(tmp_path)
    tracemalloc.start()
    with pytest.raises(UsageError, match=message):
        datasets.DATASETS["mnist"](tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize("part", ["x", "graph", "test.index"])
def test_cora_is_read_from_regular_files_only(tmp_path, part):
    write_cora(tmp_path)
    (tmp_path / f"ind.cora.{part}").unlink()
    os.mkfifo(tmp_path / f"ind.cora.{part}")
    with pytest.raises(UsageError, match=f"ind.cora.{part} is not a regular file"):
        datasets.DATASETS["cora"](tmp_path)


def test_a_class_with_a_single_row_is_named(tmp_path):
    write_mnist(tmp_path)
    labels = np.arange(60) % 9
    labels[7] = 9
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels)
    dataset = datasets.DATASETS["mnist"](tmp_path)
    with pytest.raises(UsageError, match="class 9 of mnist has a single row"):
        datasets.split(dataset, 0)


def test_too_few_rows_to_divide_are_refused(tmp_path):
    write_mnist(tmp_path, training=20)
    with pytest.raises(UsageError, match="rows of mnist cannot be divided"):
        datasets.split(datasets.DATASETS["mnist"](tmp_path), 0)


@pytest.mark.parametrize("field", ["inputs", "targets"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(field, bad):
    dataset = datasets.DATASETS["diabetes"](None)
    changed = getattr(dataset, field).copy()
    changed[17, 0] = bad
    what = {"inputs": "features", "targets": "targets"}[field]
    with pytest.raises(UsageError, match=f"{what} of diabetes are not finite .* first in row 17"):
        datasets.Dataset(**{**vars(dataset), field: changed})


def test_features_of_cora_that_are_not_finite_are_refused(tmp_path):
    parts = cora_parts()
    parts.features[3, 0] = np.nan
    write_cora(tmp_path, parts)
    with pytest.raises(UsageError, match="features of cora are not finite"):
        datasets.DATASETS["cora"](tmp_path)


def test_a_sparse_file_cannot_ask_for_a_huge_table(tmp_path):
    parts = write_cora(tmp_path)
    matrix = scipy.sparse.csr_matrix(
        (np.ones(1), ([0], [0])), shape=(len(parts.order), 2_000_000_000)
    )
    write_pickle(tmp_path / "ind.cora.tx", matrix)
    with pytest.raises(UsageError, match="it has 2000000000 columns"):
        datasets.DATASETS["cora"](tmp_path)


def test_few_digits_has_fewer_rows_than_features_and_the_test_rows_of_digits():
    few, many = (datasets.DATASETS[name](None) for name in ("few_digits", "digits"))
    parts = [datasets.split(few, seed) for seed in (0, 1)]
    for part in parts:
        assert len(part.training) == 50 < few.inputs.shape[1]
        assert np.bincount(few.targets[part.training]).tolist() == [5] * 10
        every = np.concatenate([part.training, part.validation, part.test])
        np.testing.assert_array_equal(np.sort(every), np.arange(len(few.targets)))
        np.testing.assert_array_equal(part.test, datasets.split(many, 0).test)
    assert set(parts[0].training) != set(parts[1].training)
    assert few.batch_size == 50
