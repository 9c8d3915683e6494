"""A prepared directory: one flat stream of tokens per split, and all that is needed to read it.

    meta.json          what it was made from, counts, and the SHA-256 of every other file
    tokenizer.json     the tokenizer
    token_bytes.npy    int32 [V], UTF-8 bytes per id
    <split>.npy        uint16 or uint32 [tokens]: `<doc> ids... <doc> ids...`, with meta["doc_id"]
    <split>_domain.npy uint8 [tokens]: the index of each token's source in meta["source"]

It is written under a temporary name and renamed when complete, and it is checked when it is
opened. A damaged one is an error and not rebuilt: data must not change under a running experiment.
The directory may be moved or carried to another machine; opening it takes numpy and no network.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np

from moe.data import splits
from moe.errors import UserError

FORMAT = 1  # of the directory; raise it when the layout above changes


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
    path = pathlib.Path(path).expanduser()
    meta = _read_meta(path)
    for name, expected in meta["files"].items():
        if not (path / name).exists() or describe(path / name) != expected:
            raise UserError(
                f"Prepared data in {path} is damaged: {name} is missing or not what meta.json "
                "recorded. Delete the directory and prepare the data again."
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
    try:
        meta = json.loads((path / "meta.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} holds no complete prepared data: {error}") from error
    if meta.get("format") != FORMAT:
        raise UserError(f"{path} has format {meta.get('format')}; this code reads {FORMAT}.")
    return meta


def describe(path: pathlib.Path) -> dict:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": sha256}


@contextlib.contextmanager
def writing(final: pathlib.Path) -> Iterator[pathlib.Path]:
    """A scratch directory that becomes `final` if the block succeeds, and vanishes if not.

    Where another process was faster its result stays.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".partial-") as scratch:
        directory = pathlib.Path(scratch) / "data"
        directory.mkdir()
        yield directory
        try:
            os.replace(directory, final)
        except OSError:
            if not final.exists():
                raise


def write_meta(directory: pathlib.Path, meta: dict) -> None:
    """Writes meta.json, the last file: `meta` (format, fingerprint, source...) and all hashes."""
    files = {path.name: describe(path) for path in sorted(directory.iterdir())}
    text = json.dumps({**meta, "files": files}, indent=2)
    (directory / "meta.json").write_text(text + "\n")
