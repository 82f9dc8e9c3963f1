"""Data sets: the formats they come in, and what is said when a file is broken."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from straightthrough import ArgumentError
from straightthrough.studies.data import IDX_FILES, NPZ_KEYS, DataError, load, read_idx


def idx(array):
    """An IDX file of bytes, by its published layout."""
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    return [
        random.integers(0, 256, (5, 4, 3), dtype=np.uint8),
        np.array([3, 1, 4, 1, 5], np.uint8),
        random.integers(0, 256, (2, 4, 3), dtype=np.uint8),
        np.array([9, 2], np.uint8),
    ]


def write_idx(folder, arrays, zipped=False):
    for name, array in zip(IDX_FILES, arrays, strict=True):
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))


def check(data, arrays):
    for tensor, images in ((data.train, arrays[0]), (data.test, arrays[2])):
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor * 255, torch.from_numpy(images).float())
    assert data.train_labels.tolist() == arrays[1].tolist()
    assert data.test_labels.tolist() == arrays[3].tolist()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_files(tmp_path, arrays, zipped, name):
    write_idx(tmp_path, arrays, zipped)
    data = load(name, str(tmp_path))
    check(data, arrays)
    assert (data.name, data.pixels, data.classes) == (name, 12, 6)


@pytest.mark.parametrize("file", ["mnist.npz", "anything.npz"])
def test_npz(tmp_path, arrays, file):
    np.savez(tmp_path / file, **dict(zip(NPZ_KEYS, arrays, strict=True)))
    check(load("mnist", tmp_path), arrays)


def test_an_npz_of_the_right_name_is_preferred(tmp_path, arrays):
    np.savez(tmp_path / "mnist.npz", **dict(zip(NPZ_KEYS, arrays, strict=True)))
    (tmp_path / "another.npz").write_bytes(b"not read")
    check(load("mnist", tmp_path), arrays)


def test_digits_are_split_once_and_for_all():
    from sklearn.datasets import load_digits

    data, again = load("digits"), load("digits")
    assert data.train.shape == (1500, 8, 8)
    assert data.test.shape == (297, 8, 8)
    assert torch.equal(data.train, again.train)
    together = torch.cat([data.train, data.test]).flatten(1) * 16
    ours = sorted(map(tuple, together.int().tolist()))
    assert ours == sorted(map(tuple, load_digits().data.astype(int).tolist()))
    assert torch.bincount(data.test_labels, minlength=10).min() > 15


def zip_cut_short(folder, arrays):
    write_idx(folder, arrays, zipped=True)
    path = folder / f"{IDX_FILES[0]}.gz"
    path.write_bytes(path.read_bytes()[:-20])


def zip_of_nothing(folder, arrays):
    write_idx(folder, arrays, zipped=True)
    (folder / f"{IDX_FILES[0]}.gz").write_bytes(b"not gzip")


def idx_cut_short(folder, arrays):
    write_idx(folder, arrays)
    path = folder / IDX_FILES[2]
    path.write_bytes(path.read_bytes()[:-1])


def idx_without_shape(folder, arrays):
    write_idx(folder, arrays)
    (folder / IDX_FILES[2]).write_bytes(b"\0\0\x08\x03\0\0")


def wrong_magic(folder, arrays):
    write_idx(folder, arrays)
    (folder / IDX_FILES[1]).write_bytes(b"\0\0\x0d\x01" + bytes(20))


def one_file_missing(folder, arrays):
    write_idx(folder, arrays)
    (folder / IDX_FILES[3]).unlink()


def labels_for_images(folder, arrays):
    write_idx(folder, [arrays[1], *arrays[1:]])


def too_few_labels(folder, arrays):
    write_idx(folder, [arrays[0], arrays[1][:-1], *arrays[2:]])


def sizes_differ(folder, arrays):
    write_idx(folder, [arrays[0], arrays[1], arrays[2][:, 1:], arrays[3]])


def key_missing(folder, arrays):
    np.savez(folder / "mnist.npz", x_train=arrays[0], y_train=arrays[1], x_test=arrays[2])


def npz_of_nothing(folder, arrays):
    (folder / "mnist.npz").write_bytes(b"not a zip file")


def npz_of_objects(folder, arrays):
    objects = np.array([{}], dtype=object)
    np.savez(folder / "mnist.npz", **dict.fromkeys(NPZ_KEYS, objects))


def floating_images(folder, arrays):
    parts = [arrays[0] / 255, arrays[1], arrays[2] / 255, arrays[3]]
    np.savez(folder / "mnist.npz", **dict(zip(NPZ_KEYS, parts, strict=True)))


def two_archives(folder, arrays):
    for name in ("a.npz", "b.npz"):
        (folder / name).write_bytes(b"")


def nothing(folder, arrays):
    pass


BROKEN = {
    zip_cut_short: "train-images-idx3-ubyte.gz cannot be read",
    zip_of_nothing: "train-images-idx3-ubyte.gz cannot be read",
    idx_cut_short: r"t10k-images-idx3-ubyte should be 40 bytes for \(2, 4, 3\), but has 39",
    idx_without_shape: "t10k-images-idx3-ubyte cannot be read",
    wrong_magic: "train-labels-idx1-ubyte is not an IDX file of bytes: it starts with 0x00000d01",
    one_file_missing: "lacks t10k-labels-idx1-ubyte",
    labels_for_images: r"train images must be uint8 \(N, height, width\), got uint8 \(5,\)",
    too_few_labels: r"train labels must be 5 integers, got uint8 \(4,\)",
    sizes_differ: r"images are \(4, 3\) and \(3, 3\)",
    key_missing: "lacks y_test; it has x_train, y_train, x_test",
    npz_of_nothing: "mnist.npz cannot be read",
    npz_of_objects: "mnist.npz cannot be read",
    floating_images: "train images must be uint8",
    two_archives: "or mnist.npz, but holds 2 .npz files",
    nothing: "should hold train-images-idx3-ubyte and its three companions",
}


@pytest.mark.parametrize("breakage", BROKEN, ids=lambda breakage: breakage.__name__)
def test_broken_files_are_named(tmp_path, arrays, breakage):
    breakage(tmp_path, arrays)
    with pytest.raises(DataError, match=BROKEN[breakage]) as caught:
        load("mnist", tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_an_idx_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"absent cannot be read: .*No such file"):
        read_idx(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "folder", "error", "message"),
    [
        ("cifar", None, ArgumentError, "data 'cifar' is unknown; known: digits, mnist"),
        ("mnist", None, ArgumentError, "data 'mnist' needs the folder"),
        ("digits", "somewhere", ArgumentError, "take no folder"),
        ("mnist", "does/not/exist", DataError, "does/not/exist is not a folder"),
    ],
)
def test_wrong_names_and_folders(name, folder, error, message):
    with pytest.raises(error, match=message):
        load(name, folder)


@pytest.mark.shared
def test_the_real_mnist():
    data = load("mnist", Path(os.environ["STRAIGHTTHROUGH_DATA"]))
    assert data.train.shape == (60000, 28, 28)
    assert data.test.shape == (10000, 28, 28)
    assert data.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.train.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert data.train.std().item() == pytest.approx(0.3081, abs=5e-5)
