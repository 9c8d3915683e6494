"""A prepared directory: one flat stream of tokens per split, and all that is needed to read it.

    meta.json          what it was made from, counts, and the SHA-256 of every other file
    tokenizer.json     the tokenizer
    token_bytes.npy    int32 [V], UTF-8 bytes per id
    <split>.npy        uint16 or uint32 [tokens]: `<doc> ids... <doc> ids...`, with meta["doc_id"]
    <split>_domain.npy uint8 [tokens]: the index of each token's source in meta["source"]

Of images there is no tokenizer, tokens are patches and sources are classes: see `images`.

It is written under a temporary name and renamed when complete, and it is checked when it is
opened. A damaged one is an error and not rebuilt: data must not change under a running experiment.
The directory may be moved or carried to another machine; opening it takes numpy and no network.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator

import numpy as np

from moe import sealed
from moe.data import packages, splits
from moe.errors import UserError

FORMAT = 1  # of the directory; raise it when the layout above changes
PARTIAL = ".partial-"
NEEDED = ("format", "source", "files")  # in meta.json
MEND = "delete the directory and prepare the data again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """An open prepared directory. The streams are memory-mapped, and keyed by split."""

    path: pathlib.Path
    tokens: dict[str, np.ndarray]
    domains: dict[str, np.ndarray]
    domain_names: tuple[str, ...]
    token_bytes: np.ndarray
    meta: dict

    @property
    def shares(self) -> np.ndarray:
        """The share of the training tokens that each domain has."""
        domain_X = self.domains["train"]
        return np.bincount(domain_X, minlength=len(self.domain_names)) / len(domain_X)

    @property
    def tokenizer_path(self) -> pathlib.Path:
        """The tokenizer, as `tokenizers` saves it."""
        return self.path / "tokenizer.json"

    @property
    def vocab_size(self) -> int:
        """V, the number of token ids."""
        return len(self.token_bytes)

    @property
    def doc_id(self) -> int:
        """The token that starts a document; data of before there was a choice has 0."""
        return self.meta.get("doc_id", 0)

    @property
    def sha256(self) -> dict[str, str]:
        """The hash of every file: equal for equal data, whatever code prepared it."""
        return {name: entry["sha256"] for name, entry in self.meta["files"].items()}


def load(path: str | os.PathLike) -> Prepared:
    """Opens and verifies a prepared directory.

    Raises:
      UserError: the directory is missing, incomplete or damaged, or of another format.
    """
    path = pathlib.Path(os.path.expanduser(path))
    meta = _read_meta(path)
    for name, expected in meta["files"].items():
        if not (path / name).exists() or sealed.describe(path / name) != expected:
            raise UserError(
                f"Prepared data in {path} is damaged: {name} is missing or not what meta.json "
                f"recorded: {MEND}."
            )
    return Prepared(
        path=path,
        tokens={split: np.load(path / f"{split}.npy", mmap_mode="r") for split in splits.SHARES},
        domains={
            split: np.load(path / f"{split}_domain.npy", mmap_mode="r") for split in splits.SHARES
        },
        domain_names=tuple(meta["source"]),
        token_bytes=np.load(path / "token_bytes.npy"),
        meta=meta,
    )


def _read_meta(path: pathlib.Path) -> dict:
    file = path / "meta.json"
    try:
        text = file.read_text()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} holds no complete prepared data: {error}") from error
    if '"checksum"' in text:
        return _of_today(path, sealed.read_json(file, *NEEDED, mend=MEND))
    try:  # as older code wrote it
        meta = json.loads(text)
        return _of_today(path, {name: meta[name] for name in NEEDED} | meta)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error!r}): {MEND}") from error


def _of_today(path, meta):
    if meta["format"] != FORMAT:
        raise UserError(f"{path} has format {meta['format']}; this code reads {FORMAT}.")
    return meta


def cached(cache_dir: str, recipe: dict, write: Callable[[pathlib.Path], dict]) -> Prepared:
    """The data of a recipe: `<cache>/prepared/<its fingerprint>`, made if it is not there.

    Args:
      cache_dir: as of `packages.resolve_cache_dir`.
      recipe: all that decides the data, for JSON.
      write: writes every file but meta.json into a folder; returns what it adds to meta.json.
    """
    fingerprint = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    final = packages.resolve_cache_dir(cache_dir) / "prepared" / fingerprint
    if not final.exists():
        with writing(final) as directory:
            write_meta(directory, {"fingerprint": fingerprint, **recipe, **write(directory)})
    return load(final)


@contextlib.contextmanager
def writing(final: pathlib.Path) -> Iterator[pathlib.Path]:
    """A scratch directory that becomes `final` if the block succeeds, and vanishes if not.

    Where another process was faster its result stays. What processes left that were killed while
    they wrote is removed.

    Raises:
      UserError: if the disk is full, or fails.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    _sweep(final.parent)
    with (
        tempfile.TemporaryDirectory(dir=final.parent, prefix=PARTIAL) as scratch,
        (pathlib.Path(scratch) / "lock").open("w") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory = pathlib.Path(scratch) / "data"
        directory.mkdir()
        try:
            yield directory
        except OSError as error:
            raise UserError(
                f"{final} could not be prepared: {error}. Make room in {final.parent}, or name"
                " another place in data.cache_dir"
            ) from error
        try:
            os.replace(directory, final)
        except OSError:
            if not final.exists():
                raise


def _sweep(folder):
    """Removes scratch directories that nobody holds any more."""
    for scratch in folder.glob(f"{PARTIAL}*"):
        with contextlib.suppress(OSError), (scratch / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(scratch)


def write_meta(directory: pathlib.Path, meta: dict) -> None:
    """Writes meta.json, the last file: `meta` (format, fingerprint, source...) and all hashes."""
    sealed.write_json(
        directory / "meta.json", {**meta, "files": sealed.contents(directory)}, indent=2
    )
