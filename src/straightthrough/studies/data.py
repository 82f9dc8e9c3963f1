"""Images to train on: scikit-learn's digits, and MNIST or Fashion-MNIST from a folder."""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import ArgumentError, StraightThroughError

TITLES = {"digits": "Scikit-learn's digits", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
NAMES = tuple(TITLES)
IDX_UINT8 = 0x08
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

Arrays = tuple[NDArray[np.uint8], ...]


class DataError(StraightThroughError, ValueError):
    """A data set is missing, or its files are not what they should be."""


@dataclass(frozen=True)
class Images:
    """What a data set is: in words, how many images there are to train on, and how many to test."""

    description: str
    train: int
    test: int


@dataclass(frozen=True)
class Data:
    """Images in [0, 1], float32 `(N, height, width)`, and their labels, int64 `(N,)`."""

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @property
    def pixels(self) -> int:
        """Pixels an image."""
        return math.prod(self.train.shape[1:])

    @property
    def classes(self) -> int:
        """Number of labels."""
        return int(self.train_labels.max()) + 1

    @property
    def facts(self) -> Images:
        """What the data are, for a page to say."""
        (train, height, width), test = self.train.shape, len(self.test)
        text = (
            f"{TITLES[self.name]}: {train + test:,} images of {height} x {width} pixels, {train:,} "
            f"to train on and {test:,} to test on."
        )
        return Images(text, train, test)


def check_name(name: str) -> None:
    """Raise `ArgumentError` unless it names a data set."""
    if name not in NAMES:
        raise ArgumentError(f"data {name!r} is unknown; known: {', '.join(NAMES)}")


def load(name: str, folder: str | Path | None = None) -> Data:
    """Load a data set.

    Args:
        name: `"digits"` (comes with scikit-learn), `"mnist"` or `"fashion-mnist"`.
        folder: where the two others lie: four IDX files under their usual names, gzipped or not,
            or an `.npz` with x_train, y_train, x_test and y_test.

    Raises:
        ArgumentError: if the name is unknown, or a folder is needed or given without need.
        DataError: if a file is missing, cut short or of another format; it names the file.
    """
    check_name(name)
    if name == "digits":
        if folder is not None:
            raise ArgumentError("digits come with scikit-learn and take no folder")
        return _digits()
    if folder is None:
        raise ArgumentError(
            f"data {name!r} needs the folder that holds its IDX files or .npz; pass --data-dir"
        )
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; it should hold {name}'s IDX files or .npz")
    arrays = _read_folder(name, folder)
    _check(folder, arrays)
    x_train, y_train, x_test, y_test = (torch.from_numpy(array) for array in arrays)
    return Data(name, x_train.float() / 255, y_train.long(), x_test.float() / 255, y_test.long())


def _digits() -> Data:
    """Return the 1797 images of 8 x 8 pixels, 297 of them, chosen once, for the test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = torch.randperm(len(bunch.images), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(bunch.images).float()[order] / 16
    labels = torch.from_numpy(bunch.target).long()[order]
    return Data("digits", images[:1500], labels[:1500], images[1500:], labels[1500:])


def _read_folder(name: str, folder: Path) -> Arrays:
    idx = [_first(folder / file, folder / f"{file}.gz") for file in IDX_FILES]
    if any(idx):
        missing = [file for file, path in zip(IDX_FILES, idx, strict=True) if path is None]
        if missing:
            raise DataError(f"{folder} lacks {', '.join(missing)} (plain or .gz)")
        return tuple(read_idx(path) for path in idx if path is not None)
    archives = sorted(folder.glob("*.npz"))
    named = _first(folder / f"{name}.npz")
    if named is None and len(archives) != 1:
        found = f"{len(archives)} .npz files" if archives else "neither"
        raise DataError(
            f"{folder} should hold {IDX_FILES[0]} and its three companions (plain or .gz), "
            f"or {name}.npz, but holds {found}"
        )
    return _read_npz(named or archives[0])


def _first(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a broken file raises into a `DataError` that names it."""
    try:
        yield
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read: {error or type(error).__name__}") from error


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of bytes, gzipped if its name ends in `.gz`.

    Raises:
        DataError: if it cannot be read, is not an IDX file of bytes, or is cut short.
    """
    with _reading(path):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != IDX_UINT8:
            raise DataError(
                f"{path} is not an IDX file of bytes: it starts with "
                f"0x{raw[:4].hex()}, not with 0x000008 and the number of dimensions"
            )
        header = 4 + 4 * raw[3]
        shape = tuple(int(n) for n in np.frombuffer(raw[4:header], ">u4"))
        expected = header + math.prod(shape)
        if len(shape) != raw[3] or len(raw) != expected:
            raise DataError(f"{path} should be {expected} bytes for {shape}, but has {len(raw)}")
        return np.frombuffer(raw, np.uint8, offset=header).reshape(shape).copy()


def _read_npz(path: Path) -> Arrays:
    with _reading(path):
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("it is no archive of arrays")
    with _reading(path), np.load(path, allow_pickle=False) as archive:
        missing = [key for key in NPZ_KEYS if key not in archive]
        if missing:
            raise DataError(f"{path} lacks {', '.join(missing)}; it has {', '.join(archive)}")
        return tuple(archive[key] for key in NPZ_KEYS)


def _check(folder: Path, arrays: Arrays) -> None:
    """Raise unless the arrays are images of bytes of one size, with one label each."""
    x_train, y_train, x_test, y_test = arrays
    for part, images, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
        if images.dtype != np.uint8 or images.ndim != 3 or not len(images):
            raise DataError(
                f"{folder}: {part} images must be uint8 (N, height, width), "
                f"got {images.dtype} {images.shape}"
            )
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise DataError(
                f"{folder}: {part} labels must be {len(images)} integers, "
                f"got {labels.dtype} {labels.shape}"
            )
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(f"{folder}: images are {x_train.shape[1:]} and {x_test.shape[1:]}")
