"""MNIST from its IDX files.

IDX is a big-endian header (two zero bytes, a type code, the number of dimensions, then one 32-bit
size per dimension) followed by the entries, row by row.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from tritia._compare import files
from tritia._compare.errors import UsageError

SOURCE = (
    "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and"
    " t10k-labels-idx1-ubyte.gz from http://yann.lecun.com/exdb/mnist or one of its mirrors"
)

_UNSIGNED_BYTE = 0x08
_MOST_BYTES = 2**29  # of a file, expanded or not; the images of MNIST have 47 million


def load_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads the four files.

    Args:
      folder: where they are.

    Returns:
      The images, float32 in [0, 1] of shape (rows, pixels), training rows first; the labels, int32
      of shape (rows,); and the numbers of the test rows.

    Raises:
      UsageError: a file is missing or is not what it should be.
    """
    parts = {}
    for part in ("train", "t10k"):
        images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", dimensions=3)
        labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", dimensions=1)
        if len(images) != len(labels):
            raise UsageError(
                f"{folder}: the {part} files disagree, {len(images)} images and"
                f" {len(labels)} labels; they come as {SOURCE}"
            )
        if labels.size == 0 or labels.max() > 9:
            raise UsageError(f"{folder}: the {part} labels are not digits 0 to 9")
        parts[part] = images, labels
    if parts["train"][0].shape[1:] != parts["t10k"][0].shape[1:]:
        raise UsageError(f"{folder}: training and test images differ in size")
    images = np.concatenate([parts["train"][0], parts["t10k"][0]])
    labels = np.concatenate([parts["train"][1], parts["t10k"][1]])
    inputs = images.reshape(len(images), -1).astype(np.float32)
    inputs /= 255.0
    return inputs, labels.astype(np.int32), np.arange(len(parts["train"][1]), len(labels))


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads one gzipped IDX file of unsigned bytes.

    Args:
      path: the file.
      dimensions: how many it must have.

    Returns:
      The entries, uint8.

    Raises:
      UsageError: the file is missing, unreadable, truncated or of another kind.
    """
    header = 4 + 4 * dimensions
    try:
        with files.open_regular(path, _MOST_BYTES) as compressed, gzip.open(compressed) as file:
            start = file.read(header)
            if len(start) < header or start[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]):
                raise UsageError(f"{path} is not an IDX file of bytes with {dimensions} dimensions")
            shape = struct.unpack(f">{dimensions}I", start[4:])
            announced = math.prod(shape)
            if not 0 < announced <= _MOST_BYTES:
                raise UsageError(
                    f"{path} announces {announced} bytes of shape {shape};"
                    f" allowed: 1 to {_MOST_BYTES}"
                )
            content = file.read(announced + 1)  # one more, to see whether there is more
    except FileNotFoundError:
        raise UsageError(f"{path} is missing; mnist needs {SOURCE}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read as gzip ({error})") from None
    if len(content) != announced:
        held = len(content) if len(content) < announced else "more"
        raise UsageError(
            f"{path} is corrupt: its header announces {announced} bytes of shape {shape},"
            f" it holds {held}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
