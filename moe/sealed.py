"""Files that are written whole, and know whether they are what was written.

A JSON file carries a checksum of its content; what a folder of other files held is described by
their sizes and SHA-256.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
from typing import Any

from moe.errors import UserError

MEND = "bring it back from a copy, or name another workdir"


def write(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all: a reader, or a crash, never meets half of it."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def write_json(path: pathlib.Path, content: dict, indent: int | None = None) -> None:
    """Writes a JSON file with a checksum of its content, which `read_json` compares."""
    whole = content | {"checksum": _checksum(content)}
    write(path, json.dumps(whole, indent=indent) + "\n")


def read_json(path: pathlib.Path, *needed: str, mend: str = MEND) -> dict:
    """The content of a JSON file; that of one without a checksum, as older code wrote, is believed.

    Args:
      path: of the file.
      needed: keys that it must have.
      mend: what the error tells to do.

    Raises:
      UserError: if it is not what was written, or lacks a key.
    """
    try:
        content = json.loads(path.read_text())
        known = content.pop("checksum", None)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): {mend}") from error
    if known != _checksum(content) and (known or _has_a_checksum(content)):
        raise UserError(f"{path} is damaged (it is not what was written): {mend}")
    missing = [key for key in needed if key not in content]
    if missing:
        raise UserError(f"{path} is damaged (it lacks {', '.join(missing)}): {mend}")
    return content


def _has_a_checksum(content):
    """Under another name, which is damage to the name."""
    return any(re.fullmatch("[0-9a-f]{64}", str(value)) for value in content.values())


def _checksum(content):
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def describe(path: pathlib.Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": sha256}


def flush(path: pathlib.Path) -> None:
    """Waits until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def contents(folder: pathlib.Path, flushed: bool = False) -> dict[str, dict]:
    """`describe` of every file by its name; several at a time, as hashing holds no lock.

    Args:
      folder: of the files.
      flushed: waits until all of them are on the disk.
    """
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    if flushed:
        for path in (*found, folder, *(p for p in folder.rglob("*") if p.is_dir())):
            flush(path)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        hashes = pool.map(describe, found)
        return {str(p.relative_to(folder)): h for p, h in zip(found, hashes, strict=True)}


def difference(folder: pathlib.Path, known: dict[str, dict]) -> str:
    """The first file of a folder that is not what it was, and how; "" if all are.

    Args:
      folder: of the files.
      known: `contents` of it, as it was.
    """
    try:
        found = contents(folder)
    except OSError as error:
        return str(error)
    for name, was in known.items():
        if name not in found:
            return f"{folder / name} is missing"
        if found[name] != was:
            return f"{folder / name} is not what was saved"
    return ""
