"""TensorFlow Datasets: a builder over the packaged domains, and any other data set by its name.

Written and read as ArrayRecord, the format that needs no TensorFlow. Nothing of a packaged domain
goes through TFDS's own downloads.
"""

import contextlib
import io
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator

import tensorflow_datasets as tfds

from moe import sealed
from moe.data import corpora, packages, splits
from moe.errors import UserError

SEAL = "sealed.json"  # beside the files of a packaged domain
MEND = "delete the folder, and it is prepared again"


class PackagedText(tfds.core.GeneratorBasedBuilder):
    """One config per domain of `corpora.DOMAINS`; documents are unique and sorted by their hash.

    TFDS silently reuses a prepared directory, so the identity of the documents is part of the
    path: data made by another interpreter, package or version of this code is never picked up.
    TFDS writes under a temporary name and renames at the end, so half a preparation is none.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=name, description=domain.description)
        for name, domain in corpora.DOMAINS.items()
    ]
    url_infos: dict = {}  # TFDS itself downloads nothing here, so it need not look for checksums

    def __init__(self, *, config: str, cache_dir=None, data_dir=None, version=None):
        """`config` names the domain; `cache_dir` is the cache of `packages`."""
        self._cache_dir = packages.resolve_cache_dir(cache_dir)
        self.identity = _identity(config)
        root = pathlib.Path(data_dir or self._cache_dir / "tfds")
        _check(root / self.identity / self.name / config / str(self.VERSION))
        super().__init__(data_dir=os.fspath(root / self.identity), config=config, version=version)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "text": tfds.features.Text(),
            "domain": tfds.features.ClassLabel(names=list(corpora.DOMAINS)),
        }
        domain = corpora.DOMAINS[self.builder_config.name]
        return tfds.core.DatasetInfo(
            builder=self,
            description=domain.description,
            license=domain.licence,
            disable_shuffling=True,
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # packages.fetch verifies what it downloads
        name = self.builder_config.name
        divided = divide(corpora.documents(name, self._cache_dir))
        check_not_empty(name, divided)
        return {split: self._generate_examples(texts) for split, texts in divided.items()}

    def _generate_examples(self, texts: list[str]) -> Iterator[tuple[int, dict]]:
        for key, text in enumerate(sorted(texts, key=splits.digest)):
            yield key, {"text": text, "domain": self.builder_config.name}


def _identity(domain: str) -> str:
    """Changes with the documents of a packaged domain, and with the code that divides them."""
    return splits.digest(corpora.identity(domain) + _code()).hex()[:16]


def _code() -> str:
    """The code that divides and orders documents."""
    return "".join(pathlib.Path(file).read_text() for file in (__file__, splits.__file__))


def divide(texts: Iterable[str], max_documents: int = 0) -> dict[str, list[str]]:
    """Unique non-blank documents by split, in the order they come.

    With `max_documents` each split keeps at most its share of that number (at least one), and
    reading stops as soon as every split is full.
    """
    divided: dict[str, dict[str, None]] = {split: {} for split in splits.SHARES}
    limits = {s: max(1, round(max_documents * share / 100)) for s, share in splits.SHARES.items()}
    full: set[str] = set()
    for text in texts:
        split = splits.split_of(text)
        if text.strip() and split not in full:
            divided[split][text] = None
        if max_documents and len(divided[split]) == limits[split]:
            full.add(split)
            if len(full) == len(limits):
                break
    return {split: list(unique) for split, unique in divided.items()}


def check_not_empty(name: str, divided: dict[str, list[str]]) -> None:
    """Raises UserError if a split of the source `name` has no document."""
    for split, texts in divided.items():
        if not texts:
            total = sum(map(len, divided.values()))
            raise UserError(
                f"Source {name!r} has no document in its {split!r} split ({total} documents in "
                "all). Allow more documents, or choose a larger source."
            )


def documents(
    name: str,
    *,
    cache_dir: str | os.PathLike | None = None,
    text_key: str = "text",
    max_documents: int = 0,
) -> dict[str, list[str]]:
    """Unique documents of a source by split, prepared by TFDS at the first use.

    Args:
      name: a packaged domain, or a TFDS name ("lm1b", "wiki40b/en"), whose 'train' split is divided
        by the same rule as the domains; TFDS keeps it where it keeps its data (TFDS_DATA_DIR).
      text_key: the feature that holds a document.
      max_documents: see `divide`; 0 for all. They are held in memory, so set it for a data set of
        more than a few gigabytes.

    Raises:
      UserError: unknown source, no such feature, or a split without documents.
    """
    source = _builder(name, cache_dir)
    if text_key not in source.info.features:
        known = sorted(source.info.features)
        raise UserError(f"Source {name!r} has no feature {text_key!r}; it has {known}.")
    _prepare(source)
    if name in corpora.DOMAINS:
        _seal(pathlib.Path(source.data_path))
    source = _builder(name, cache_dir)  # a fresh one sees what is on disk, whoever wrote it
    parts = splits.SHARES if name in corpora.DOMAINS else ["train"]
    texts = (text for part in parts for text in _read(source, part, text_key))
    divided = divide(texts, max_documents)
    check_not_empty(name, divided)
    return divided


def source_identity(name: str, cache_dir: str | os.PathLike | None = None) -> str:
    """A string that changes with the documents of the source `name`."""
    if name in corpora.DOMAINS:  # whose kept files need not be looked at
        return _identity(name)
    source = _builder(name, cache_dir)
    return f"{source.info.full_name} {splits.digest(_code()).hex()}"


def _builder(name: str, cache_dir: str | os.PathLike | None) -> tfds.core.DatasetBuilder:
    if name in corpora.DOMAINS:
        return PackagedText(config=name, cache_dir=cache_dir)
    try:
        return tfds.builder(name)
    except Exception as error:  # of many kinds: not found, malformed, no network
        said = "" if isinstance(error, tfds.core.DatasetNotFoundError) else f" ({error})"
        raise UserError(
            f"Unknown source {name!r}{said}. The packaged domains are"
            f" {', '.join(corpora.DOMAINS)}; any other source is a TFDS data set, named as in"
            " tfds.builder: 'lm1b', 'c4/en', 'wiki40b/en'."
        ) from error


def _prepare(source: tfds.core.DatasetBuilder) -> None:
    """Prepares what is not prepared yet; of several processes at once the first to finish wins.

    TFDS announces its work on stdout, which is for results: it goes to stderr. For a packaged
    domain, a matter of seconds, announcements and bars are left out.
    """
    packaged = isinstance(source, PackagedText)
    if packaged:
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO() if packaged else sys.stderr):
            source.download_and_prepare(file_format="array_record")
    except OSError:  # TFDS could not rename its work: has another process been faster?
        if not source.data_path.exists():
            raise
    finally:
        if packaged:
            tfds.enable_progress_bar()


def _seal(folder: pathlib.Path) -> None:
    """Hashes the files of a packaged domain when they are new."""
    if not (folder / SEAL).exists():
        sealed.write_json(folder / SEAL, {"files": sealed.contents(folder)}, indent=2)


def _check(folder: pathlib.Path) -> None:
    """Makes sure that files of a packaged domain, if they are there, are what was written.

    Raises:
      UserError: if they are not.
    """
    path = folder / SEAL
    if not path.exists():
        return
    said = sealed.difference(folder, sealed.read_json(path, "files", mend=MEND)["files"])
    if said:
        raise UserError(f"{said}: {MEND}")


def _read(source: tfds.core.DatasetBuilder, split: str, text_key: str) -> Iterator[str]:
    """The documents of a split."""
    examples = iter(source.as_data_source(split=split))
    while True:
        try:
            example = next(examples, None)
        except Exception as error:  # the library's, of many kinds
            raise UserError(
                f"{source.data_path} cannot be read ({type(error).__name__}: {error}): {MEND}"
            ) from error
        if example is None:
            return
        text = example[text_key]
        if not isinstance(text, bytes | str):
            raise UserError(
                f"Source {source.info.full_name!r} has no text in {text_key!r} but"
                f" {type(text).__name__}: set data.text_key to a feature that holds text"
            )
        yield _decoded(source, text_key, text) if isinstance(text, bytes) else text


def _decoded(source, text_key, text):
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"Source {source.info.full_name!r} has a document that is not UTF-8 in {text_key!r}:"
            f" {error}. Choose another source or text_key, or prepare this one with text that is"
            " converted to UTF-8."
        ) from error
