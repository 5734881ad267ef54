"""Pickles are read without trusting them: right arrays or a clear error, no crash, no hang."""

import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import scipy.sparse

from tests._compare.files import write_cora
from tritia._compare import array_pickle
from tritia._compare.errors import UsageError


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0, dtype=np.float32).reshape(2, 3)),
        np.array([[True, False]]),
        np.zeros((0, 3), np.uint8),
    ],
)
def test_arrays_come_back_as_they_were(array, protocol):
    found = array_pickle.array(array_pickle.load(pickle.dumps(array, protocol)), 2)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")


def test_matrices_come_back_as_they_were():
    matrix = scipy.sparse.random(5, 7, 0.4, "csr", np.float32, random_state=0)
    found = array_pickle.csr_matrix(array_pickle.load(pickle.dumps(matrix, 4)), 100)
    np.testing.assert_array_equal(found.toarray(), matrix.toarray())


def array_of(code=b"f8", shape=b"K\x01", dtype_state=None, content=b"C\x08" + bytes(8)):
    """A pickle of an array, opcode by opcode, with parts that NumPy would not write."""
    state = dtype_state or b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    return (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01" + shape + b"\x85cnumpy\ndtype\nX\x02\x00\x00\x00" + code + b"K\x00K\x01\x87R"
        b"" + state + b"b\x89" + content + b"tb."
    )


@pytest.mark.parametrize("opcode", [b"C", b"U"])  # bytes, and a string as Python 2 wrote it
def test_the_pickle_written_by_hand_is_an_array(opcode):
    content = opcode + b"\x08" + np.float64(-1.5).tobytes()
    found = array_pickle.array(array_pickle.load(array_of(content=content)), 1)
    np.testing.assert_array_equal(found, [-1.5])


NESTED = b"(K\x01K\x02t" + b"q\x00h\x00\x86" * 60  # a tuple of itself twice, 60 deep


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # NumPy's own __setstate__ reads this void dtype's forged fields as pointers.
        (
            array_of(
                b"V8",
                dtype_state=b"(K\x03X\x01\x00\x00\x00|NX\x01\x00\x00\x00a\x85}X\x01\x00\x00\x00a"
                b"K\x01K\x02\x86sK\x08K\x01K?t",
            ),
            "structured dtype",
        ),
        (array_of(b"O8"), "not an array of numbers"),
        (array_of(b"V8"), "not an array of numbers"),
        (array_of(shape=b"K\x02"), "8 bytes are not an array of shape"),
        (array_of(shape=b"J\xff\xff\xff\xff"), "not a tuple of sizes"),
        (array_of(shape=b"\x8a\x08" + b"\xff" * 7 + b"\x7f"), "8 bytes are not an array of shape"),
        (array_of(content=b"N"), "content is not bytes"),
        (array_of(content=b"X\x02\x00\x00\x00\xc4\x80"), "content is not bytes"),
        (b"\x80\x02cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb.", "changes what it must not"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "calls what it must not"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "makes what it must not"),
        (b"\x80\x02}" + NESTED + b"K\x01s.", "keys are not numbers"),
        (b"\x80\x02]K\x00K\x01s.", "other than a dict"),
        (b"\x80\x02K\x01r\xff\xff\xff\x7f.", "not an array"),  # a memo of 2^31 entries
        (b"\x80\x05\x96" + b"\xff" * 7 + b"\x00.", "not a readable pickle"),  # a bytearray of 2^56
        (b"\x80\x05\x8e" + b"\xff" * 7 + b"\x00.", "not a readable pickle"),  # bytes, likewise
        (b"\x80\x04\x8f.", "not a readable pickle"),  # a set
        (b"\x80\x02\x82\x01.", "not a readable pickle"),  # copyreg's extensions
        (b"", "not a readable pickle"),
    ],
)
def test_crafted_pickles_are_refused(content, message):
    with pytest.raises(UsageError, match=message):
        array_pickle.array(array_pickle.load(content), 1)


FUZZ = """
    import collections, pathlib, random, sys
    import numpy as np
    from tritia._compare import datasets
    from tritia._compare.errors import UsageError

    folder, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    random.seed(0)
    names = sorted(folder.glob("ind.cora.*"))
    opcodes = bytes(range(256))
    outcomes = collections.Counter()
    for number in range(count):
        path = names[number % len(names)]
        whole = path.read_bytes()
        content = bytearray(whole)
        for _ in range(random.choice((1, 1, 2, 5, 20))):
            # Half of the places are at the beginning, where opcodes are dense.
            most = min(len(content), 400) if random.random() < 0.5 else len(content)
            place = random.randrange(max(1, most))
            kind = random.randrange(4)
            if kind == 0:
                content[place : place + 1] = bytes([random.choice(opcodes)])
            elif kind == 1:
                del content[place : place + random.choice((1, 4, 100))]
            elif kind == 2:
                content[place:place] = random.randbytes(random.choice((1, 4, 8)))
            else:
                other = random.randrange(max(1, len(content)))
                content[place:place] = content[other : other + 30]
        path.write_bytes(content)
        try:
            found = datasets.DATASETS["cora"](folder)
        except UsageError as error:
            assert str(error), path
            outcomes["refused"] += 1
        else:
            assert found.inputs.shape[0] == found.targets.shape[0], path
            assert found.inputs.dtype == np.float32 and np.isfinite(found.inputs).all(), path
            assert found.targets.min() >= 0 and found.targets.max() < found.classes, path
            outcomes["read"] += 1
        path.write_bytes(whole)
    print(outcomes["refused"], outcomes["read"])
"""


def fuzz(folder, count):
    """Reads mutated files in a process of its own; returns how many were refused, and read."""
    write_cora(folder)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FUZZ), str(folder), str(count)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return map(int, done.stdout.split())


def test_mutated_files_are_refused_or_read(tmp_path):
    refused, read = fuzz(tmp_path, 80)
    assert refused + read == 80
    assert refused > 40


@pytest.mark.slow
def test_many_mutated_files_are_refused_or_read(tmp_path):
    refused, read = fuzz(tmp_path, 800)
    assert refused > 400
    assert read > 10  # a changed number in an array is still an array
