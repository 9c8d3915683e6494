"""Files of a run that are damaged while it does not train: every kind of file, in every way."""

import pathlib
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator

from experiments.soak_parts import victims
from experiments.soak_parts.victims import Row, Victims


def flip(path: pathlib.Path, rng: random.Random) -> None:
    """One bit, somewhere."""
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: pathlib.Path, rng: random.Random) -> None:
    """The end is missing."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(max(1, len(content)))])


def empty(path: pathlib.Path, rng: random.Random) -> None:
    """Nothing is left of it but its name."""
    del rng
    path.write_bytes(b"")


def delete(path: pathlib.Path, rng: random.Random) -> None:
    """It is gone."""
    del rng
    path.unlink()


DAMAGES: dict[str, Callable[[pathlib.Path, random.Random], None]] = {
    "flipped bit": flip,
    "cut file": cut,
    "emptied file": empty,
    "deleted file": delete,
}


def damaged(runs: Victims, times: int) -> Iterator[Row]:
    """One file of a run that was stopped half-way, or of a finished one, is damaged; it goes on.

    It must end as one that nobody hurt. If it refuses, its error must name a file; then the file is
    brought back from a copy, as the error says, and it must end so, too.
    """
    rng = random.Random(0)
    copies = {_kind(p, w): w for w in (runs.untouched(), _half_way(runs)) for p in _files(w)}
    kinds = sorted(copies)
    for i in range(times):
        kind, (name, damage) = kinds[i % len(kinds)], rng.choice(list(DAMAGES.items()))
        workdir = runs.fresh(f"damaged_{i}")
        shutil.copytree(copies[kind], workdir)
        path = rng.choice([p for p in _files(workdir) if _kind(p, workdir) == kind])
        damage(path, rng)
        yield _judged(runs, f"{name}: {kind}", workdir, path, copies[kind])


def _judged(runs, fault, workdir, path, copy):
    code = runs.finish(workdir)
    if not code:
        return runs.judged(fault, workdir)
    told = victims.last_line(workdir)
    if not victims.is_told(workdir) or str(workdir) not in told:
        return Row(fault, "lost", f"exit code {code}: {told}")
    shutil.copy(copy / path.relative_to(workdir), path)
    return runs.judged(fault, workdir, told.replace(str(workdir), "WORKDIR"))


def _half_way(runs):
    """The workdir of a run that was asked to end at about half of its steps."""
    workdir = runs.root / "half_way"
    if not workdir.exists():
        process = runs.start(workdir)
        victims.wait_for_step(workdir, runs.steps // 2, process)
        process.send_signal(signal.SIGTERM)
        process.wait(victims.PATIENCE)
    return workdir


def _files(workdir):
    return sorted(p for p in workdir.rglob("*") if p.is_file() and p.suffix != ".lock")


def _kind(path, workdir):
    """The file's path without numbers: checkpoints/5/state/d/45a2... is checkpoints/N/state/d/H."""
    name = re.sub(r"[0-9a-f]{32}", "H", str(path.relative_to(workdir)))
    return re.sub(r"(?<=/)\d+", "N", name)
