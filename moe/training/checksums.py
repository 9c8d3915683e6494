"""Is what lies in a run's folder what was written there? SHA-256 of checkpoints and small files.

Those of a checkpoint lie beside it, in `checksums/<step>.json`, and are compared before it is read:
the library that writes checkpoints checks some of its files, but not the arrays (of 60 flipped bits
it loaded 54). What metrics.jsonl held when the checkpoint was saved is among them.
"""

import concurrent.futures
import hashlib
import pathlib
from typing import Any

from moe.data import prepared
from moe.errors import UserError
from moe.training import files

METRICS = "metrics.jsonl"


def write(workdir: pathlib.Path, step: int) -> None:
    """Hashes a complete checkpoint and the metrics so far; forgets checkpoints that are gone.

    Args:
      workdir: of the run.
      step: of the checkpoint.
    """
    path = _path(workdir, step)
    metrics = workdir / METRICS
    size = metrics.stat().st_size if metrics.exists() else 0
    found = {"files": _files(_folder(workdir, step)), METRICS: _beginning(metrics, size)}
    path.parent.mkdir(exist_ok=True)
    files.write_json(path, found, indent=2)
    for other in path.parent.glob("*.json"):
        if not _folder(workdir, other.stem).exists():
            other.unlink(missing_ok=True)


def forget(workdir: pathlib.Path, step: int) -> None:
    """Removes what was known of a checkpoint, before another is saved in its place."""
    _path(workdir, step).unlink(missing_ok=True)


def damage(workdir: pathlib.Path, step: int) -> str:
    """What is wrong with a checkpoint; "" if it is what was saved.

    One without checksums is believed: it is from before there were any, or its run was killed
    between the two. (What is written half has another name.)
    """
    path = _path(workdir, step)
    if not path.exists():
        return ""
    known = _known(path)
    if not known:
        return f"{path} is damaged"
    try:
        found = _files(_folder(workdir, step))
    except OSError as error:
        return str(error)
    for name, was in known["files"].items():
        if name not in found:
            return f"{_folder(workdir, step) / name} is missing"
        if found[name] != was:
            return f"{_folder(workdir, step) / name} is not what was saved"
    return ""


def check_metrics(workdir: pathlib.Path, step: int) -> None:
    """Makes sure that metrics.jsonl still begins with what it held at a checkpoint.

    Raises:
      UserError: if it does not.
    """
    known = _known(_path(workdir, step)).get(METRICS)
    path = workdir / METRICS
    if known and _beginning(path, known["bytes"]) != known:
        raise UserError(
            f"{path} does not begin with the {known['bytes']:,} bytes that it had when the"
            f" checkpoint of step {step} was saved: bring it back from a copy; or, to go on with"
            f" what is left of it, delete {_path(workdir, step).parent}"
        )


def _folder(workdir, step):
    return workdir / "checkpoints" / str(step)


def _path(workdir, step):
    return workdir / "checksums" / f"{step}.json"


def _known(path) -> dict[str, Any]:
    """What was written; {} if that is damaged or there is nothing."""
    try:
        return files.read_json(path, "files", METRICS)
    except (OSError, UserError):
        return {}


def _files(folder):
    """Size and hash of every file by its name; several at a time, as hashing holds no lock."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    with concurrent.futures.ThreadPoolExecutor() as pool:
        hashes = pool.map(prepared.describe, found)
        return {str(p.relative_to(folder)): h for p, h in zip(found, hashes, strict=True)}


def _beginning(path, size):
    """Size and hash of the first bytes of a file that grows."""
    content = b""
    if path.exists():
        with path.open("rb") as file:
            content = file.read(size)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
