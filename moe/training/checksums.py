"""Is what lies in a run's folder what was written there? SHA-256 of checkpoints and what is beside.

Those of a checkpoint lie beside it, in `checksums/<step>.json`, its seal, and are compared before
it is read: the library that writes checkpoints checks some of its files, but not the arrays (of 60
flipped bits it loaded 54). What metrics.jsonl held when it was saved, and the run's rewinds so far,
are among them.
"""

import hashlib
import os
import pathlib
from typing import Any

from moe import sealed
from moe.errors import UserError
from moe.training import divergence, metrics

METRICS = "metrics.jsonl"


def write(workdir: pathlib.Path, step: int, so_far: bool = True) -> None:
    """Seals a complete checkpoint, with its metrics; forgets checkpoints that are gone.

    What it describes is on the disk before it is.

    Args:
      workdir: of the run.
      step: of the checkpoint.
      so_far: all metrics so far are before it; else those up to its step are.
    """
    path = _path(workdir, step)
    lines = workdir / METRICS
    size = 0
    if lines.exists():
        sealed.flush(lines)
        content = lines.read_bytes()
        size = len(content if so_far else metrics.up_to(lines, content, step))
    files = sealed.contents(_folder(workdir, step), flushed=True)
    sealed.flush(_folder(workdir, step).parent)
    found = {
        "files": files,
        METRICS: _beginning(lines, size),
        "rewinds": divergence.rewinds(workdir),
    }
    path.parent.mkdir(exist_ok=True)
    sealed.write_json(path, found, indent=2)
    for other in path.parent.glob("*.json"):
        if not _folder(workdir, other.stem).exists():
            other.unlink(missing_ok=True)


def forget(workdir: pathlib.Path, step: int) -> None:
    """Removes what was known of a checkpoint, before another is saved in its place."""
    _path(workdir, step).unlink(missing_ok=True)


def any_of(workdir: pathlib.Path) -> bool:
    """Was a checkpoint of this run ever sealed?"""
    return any((workdir / "checksums").glob("*.json"))


def damage(workdir: pathlib.Path, step: int) -> str:
    """What is wrong with a checkpoint; "" if it is what was saved.

    One without a seal is believed where nothing has a seal: it is from before there were any, or
    the first of its run, which was killed between the two. Else it is not: after a loss of power
    its files may be empty. (What is written half has another name.)
    """
    path = _path(workdir, step)
    if not path.exists():
        return f"{path} is missing, so it was not finished" if any_of(workdir) else ""
    known = _known(path)
    if not known:
        return f"{path} is damaged"
    return sealed.difference(_folder(workdir, step), known["files"])


def check_beside(workdir: pathlib.Path, step: int) -> None:
    """Makes sure that metrics and rewinds still begin with what they held at a checkpoint.

    Raises:
      UserError: if they do not.
    """
    known = _known(_path(workdir, step))
    was = known.get(METRICS)
    path = workdir / METRICS
    if was and _beginning(path, was["bytes"]) != was:
        raise UserError(
            f"{path} does not begin with the {was['bytes']:,} bytes that it had when the"
            f" checkpoint of step {step} was saved: bring it back from a copy, or start"
            " over in another workdir"
        )
    rewinds = [divergence.Rewind(*pair) for pair in known.get("rewinds", [])]
    if divergence.rewinds(workdir)[: len(rewinds)] != rewinds:
        raise UserError(
            f"{divergence.path(workdir)} is not what it was when the checkpoint of step {step} was"
            " saved: bring it back from a copy; without it the run would read other data"
        )


def cut_metrics(workdir: pathlib.Path, step: int) -> None:
    """Removes what a run wrote into its metrics after a checkpoint: it will write that again."""
    known = _known(_path(workdir, step)).get(METRICS)
    if known and (workdir / METRICS).exists():
        os.truncate(workdir / METRICS, known["bytes"])


def _folder(workdir, step):
    return workdir / "checkpoints" / str(step)


def _path(workdir, step):
    return workdir / "checksums" / f"{step}.json"


def _known(path) -> dict[str, Any]:
    """What was written; {} if that is damaged or there is nothing."""
    try:
        return sealed.read_json(path, "files", METRICS)
    except (OSError, UserError):
        return {}


def _beginning(path, size):
    """Size and hash of the first bytes of a file that grows."""
    content = b""
    if path.exists():
        with path.open("rb") as file:
            content = file.read(size)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
