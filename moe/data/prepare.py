"""From named sources to a prepared directory: documents, tokenizer, one token stream per split.

The documents of all sources are sorted by the hash of their text. That is a shuffle which any
machine and library version repeats, so a prefix of a stream is a fair sample of all sources.
"""

import dataclasses
import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import tqdm

from moe import ranges, sealed
from moe.data import corpora, images, prepared, splits, tokenizer
from moe.errors import UserError

if TYPE_CHECKING:
    import tokenizers

Document = tuple[str, int]  # text, index of its source
_CHUNK = 1 << 22  # characters encoded at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where text comes from and how it becomes tokens.

    Attributes:
      source: packaged domains (`corpora.DOMAINS`) and TFDS names; each is one domain of the data.
      vocab_size: V, with <doc>; of a tokenizer given, its size or more.
      tokenizer: a tokenizer.json of the `tokenizers` library; empty to train one here.
      doc_token: the special token of a tokenizer given that is to stand before every document.
      text_key: the feature that holds a document in the TFDS data sets named.
      max_documents: at most about so many documents of each source; 0 for all.
      held_out_tokens: at most so many of each document of the validation and test splits, so that
        a few long ones do not decide; 0 for all.
      tokenizer_bytes: at most so much of the training split trains the tokenizer.
      cache_dir: where everything is kept; empty for $MOE_CACHE or else ~/.cache/moe.
      prepared_dir: a directory prepared elsewhere from this very config; empty to prepare here.
    """

    PLACES: ClassVar = ("cache_dir", "prepared_dir")  # where it lies, not what it is

    source: tuple[str, ...] = corpora.DEFAULT
    vocab_size: int = 4096
    text_key: str = "text"
    tokenizer: str = ""
    doc_token: str = "<doc>"
    max_documents: int = 0
    held_out_tokens: int = 0
    tokenizer_bytes: int = 20_000_000
    cache_dir: str = ""
    prepared_dir: str = ""

    def __post_init__(self):
        if not isinstance(self.source, tuple) or not self.source:
            raise UserError(f'source={self.source!r}: give a tuple of names, as in ("code",).')
        if len(set(self.source)) != len(self.source) or len(self.source) > 256:
            raise UserError(f"source={self.source}: names must differ, and be at most 256.")
        self._check_tokenizer()
        if not self.tokenizer and self.vocab_size < tokenizer.SMALLEST:
            raise UserError(f"vocab_size={self.vocab_size} is below {tokenizer.SMALLEST}.")
        ranges.check(self, "data", ranges.DATA)
        if self.text_key != "text" and set(self.source) <= set(corpora.DOMAINS):
            raise UserError(f"text_key={self.text_key!r}: packaged domains have only 'text'.")

    def _check_tokenizer(self):
        """Refuses what does nothing."""
        name = "tokenizer_bytes" if self.tokenizer else "doc_token"
        value = getattr(self, name)
        default = getattr(DataConfig, name)
        if value != default:
            raise UserError(
                f"data.{name}={value!r} does nothing {'with' if self.tokenizer else 'without'} a"
                f" tokenizer given in data.tokenizer: leave it at {default!r}"
            )


def prepare(config: DataConfig | images.ImageConfig) -> prepared.Prepared:
    """The data that `config` describes, from the cache if it is there, else made and cached.

    Without `prepared_dir` the directory is `<cache>/prepared/<fingerprint>`; the fingerprint
    covers the config, the identity of every source and the code. Several processes may prepare the
    same data at once; the first to finish wins.

    Raises:
      UserError: unknown source, empty split, vocabulary too large for the text or too small for
        the tokenizer, damaged directory, or `prepared_dir` made from another config.
      UserError: a package cannot be fetched or has the wrong hash.
    """
    if isinstance(config, images.ImageConfig):
        return images.prepare(config)
    if config.prepared_dir:
        return _require_same(prepared.load(config.prepared_dir), config)

    def write(directory: pathlib.Path) -> dict:
        return _write(config, directory)

    return prepared.cached(config.cache_dir, _recipe(config), write)


def _choices(config: DataConfig) -> dict:
    """The fields that decide the data, as JSON keeps them; of a tokenizer, what it is."""
    fields = dataclasses.asdict(config)
    del fields["cache_dir"], fields["prepared_dir"]
    return {**fields, "source": list(config.source), "tokenizer": _identity(config)}


def _identity(config):
    """The SHA-256 of the tokenizer given, wherever it lies; empty if none is."""
    path = pathlib.Path(os.path.expanduser(config.tokenizer))
    if not config.tokenizer:
        return ""
    if not path.is_file():
        raise UserError(
            f"data.tokenizer={config.tokenizer!r} is no file: give the path of a tokenizer.json, or"
            " leave it empty to train one"
        )
    return sealed.describe(path)["sha256"]


def _recipe(config: DataConfig) -> dict:
    import tokenizers

    from moe.data import builder  # imports TFDS, which an opened prepared_dir does not need

    code = b"".join(pathlib.Path(file).read_bytes() for file in (__file__, tokenizer.__file__))
    return {
        "format": prepared.FORMAT,
        **_choices(config),
        "identities": [builder.source_identity(name, config.cache_dir) for name in config.source],
        "code": hashlib.sha256(code).hexdigest(),
        "tokenizers": tokenizers.__version__,
    }


def _require_same(data: prepared.Prepared, config: DataConfig) -> prepared.Prepared:
    wanted = _choices(config)
    fields = dataclasses.fields(config)
    found = {f.name: f.default for f in fields} | data.meta  # fields that came later: defaults
    differ = [f"{key}={found[key]!r}" for key in wanted if found[key] != wanted[key]]
    if differ:
        raise UserError(f"{data.path} was prepared with {', '.join(differ)}; the config differs.")
    return data


def _write(config: DataConfig, directory: pathlib.Path) -> dict:
    """Writes every file but meta.json; returns what it adds: counts, and the id of <doc>."""
    given = _given(config)  # refused before hours of reading
    documents = _gather(config)
    words = given or _trained(config, documents["train"])
    if given:
        tokenizer.check_text(words, (text for text, _ in documents["train"]), config.tokenizer)
    doc_id = tokenizer.document_id(words, config.doc_token, config.tokenizer)
    _save(config, words, directory / "tokenizer.json")
    token_bytes = tokenizer.token_bytes(words, config.vocab_size)
    np.save(directory / "token_bytes.npy", token_bytes)
    counts = {}
    for split, members in documents.items():
        ids, domains = _encode(words, members, split, config.vocab_size, doc_id)
        _check_bytes(config, int(token_bytes[ids].sum(dtype=np.int64)), members)
        if config.held_out_tokens and split != "train":
            kept = places(ids, doc_id) < config.held_out_tokens
            ids, domains = ids[kept], domains[kept]
        np.save(directory / f"{split}.npy", ids)
        np.save(directory / f"{split}_domain.npy", domains)
        counts[split] = _count(config.source, domains, ids == doc_id, token_bytes[ids])
    return {"splits": counts, "doc_id": doc_id}


def _given(config):
    """The tokenizer given, None if one is to be trained."""
    if not config.tokenizer:
        return None
    words = tokenizer.load(pathlib.Path(os.path.expanduser(config.tokenizer)))
    tokenizer.check_size(words, config.vocab_size, config.tokenizer)
    tokenizer.document_id(words, config.doc_token, config.tokenizer)
    return words


def _trained(config, members):
    texts = (text for text, _ in members)
    size = {"vocab_size": config.vocab_size, "max_bytes": config.tokenizer_bytes}
    return tokenizer.train(texts, **size)


def _save(config, words, path):
    """Writes tokenizer.json; one that is given stays what it is, byte for byte."""
    if config.tokenizer:
        shutil.copyfile(pathlib.Path(os.path.expanduser(config.tokenizer)), path)
    else:
        tokenizer.save(words, path)


def places(ids: np.ndarray, doc_id: int) -> np.ndarray:
    """The place of each token of a stream in its document, whose first token is `doc_id`."""
    starts = np.flatnonzero(ids == doc_id)
    return np.arange(len(ids)) - np.repeat(starts, np.diff(starts, append=len(ids)))


def _check_bytes(config, of_ids, members):
    """Refuses a tokenizer whose ids do not stand for the text: no bits per byte could be told."""
    of_text = sum(len(text.encode()) for text, _ in members)
    if abs(of_ids - of_text) > of_text / 100:
        raise UserError(
            f"data.tokenizer={config.tokenizer!r} does not keep the text: its tokens stand for"
            f" {of_ids:,} bytes of {of_text:,}. Use one that neither normalises text nor has"
            " unknown words, such as byte-level BPE"
        )


def _gather(config: DataConfig) -> dict[str, list[Document]]:
    """Documents by split, shuffled; of equal ones the first source keeps its own."""
    from moe.data import builder

    unique: dict[str, dict[str, int]] = {split: {} for split in splits.SHARES}
    bar = tqdm.tqdm(config.source, unit="source")
    for index, name in enumerate(bar):
        bar.set_description(f"reading {name}")
        divided = builder.documents(
            name,
            cache_dir=config.cache_dir,
            text_key=config.text_key,
            max_documents=config.max_documents,
        )
        for split, texts in divided.items():
            for text in texts:
                unique[split].setdefault(text, index)
    return {
        split: sorted(members.items(), key=lambda document: splits.digest(document[0]))
        for split, members in unique.items()
    }


def _encode(
    words: "tokenizers.Tokenizer",
    members: list[Document],
    split: str,
    vocab_size: int,
    doc_id: int,
) -> tuple[np.ndarray, np.ndarray]:
    """`<doc> ids...` of every document in one array, and the source of each token in another."""
    dtype = np.uint16 if vocab_size <= 65_536 else np.uint32
    ids = []
    domains = []
    for chunk in _chunks(members, split):
        encodings = words.encode_batch_fast([text for text, _ in chunk], add_special_tokens=False)
        for encoding, (_, domain) in zip(encodings, chunk, strict=True):
            ids.append(np.array([doc_id, *encoding.ids], dtype))
            domains.append(np.full(len(ids[-1]), domain, np.uint8))
    return np.concatenate(ids), np.concatenate(domains)


def _chunks(members: list[Document], split: str) -> Iterator[list[Document]]:
    """Runs of documents of about _CHUNK characters, under a progress bar."""
    chunk = []
    size = 0
    for document in tqdm.tqdm(members, desc=f"tokens of {split}", unit="doc"):
        chunk.append(document)
        size += len(document[0])
        if size >= _CHUNK:
            yield chunk
            chunk = []
            size = 0
    if chunk:
        yield chunk


def _count(
    source: tuple[str, ...], domains: np.ndarray, starts: np.ndarray, token_bytes: np.ndarray
) -> dict:
    """Documents, tokens (with <doc>) and their bytes, per source and in all."""
    by_source = {}
    for index, name in enumerate(source):
        here = domains == index
        by_source[name] = {
            "documents": int(np.count_nonzero(starts[here])),
            "tokens": int(np.count_nonzero(here)),
            "bytes": int(token_bytes[here].sum(dtype=np.int64)),
        }
    totals = {k: sum(c[k] for c in by_source.values()) for k in ("documents", "tokens", "bytes")}
    return {**totals, "domains": by_source}
