"""What does a run survive? Real training processes, hurt in every way, and random searches.

    python -m experiments.soak --out=runs/soak             # about three hours of one core
    python -m experiments.soak --out=runs/soak_short --share=0.05
    python -m experiments.soak --out=runs/soak --parts=kills,disk

A run that was hurt must end with the bits of one that was not, or be refused by an error that names
the file, and end so once that is mended. Anything else is lost. The parts, and what they do so many
times, are `PARTS`. Interrupted, the same command does what is left.
"""

import collections
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import tqdm
from absl import flags

from configs import soak
from experiments import command
from experiments.soak_parts import (
    damage,
    decoding,
    fuzz,
    group,
    memory,
    problems,
    stops,
    victims,
)
from experiments.soak_parts.victims import Row
from moe import schema, sealed
from moe.analysis import markdown
from moe.training import files

COUNTED = ("survived", "refused", "lost", "trained", "diverged", "skipped")


Rows = Callable[[pathlib.Path, int], Iterator[Row]]  # of the folder, and how often


class Part(NamedTuple):
    """One kind of fault."""

    what: str
    times: int
    rows: Rows


def hurt(rows: Callable[[victims.Victims, int], Iterator[Row]]) -> Rows:
    """A part that hurts runs."""

    def of_folder(out: pathlib.Path, times: int) -> Iterator[Row]:
        steps = soak.get_config().train.steps
        return rows(victims.Victims(victims.command(), out / "workdirs", steps), times)

    return of_folder


PARTS = {
    "kills": Part("SIGKILL at a random moment", 200, hurt(stops.kills)),
    "asked": Part("SIGTERM, SIGINT, SIGHUP", 30, hurt(stops.asked)),
    "damage": Part("a damaged file", 60, hurt(damage.damaged)),
    "disk": Part("a full disk", 12, hurt(stops.full_disk)),
    "twice": Part("a second run in the workdir", 6, hurt(stops.twice)),
    "group": Part("one of two processes ends", 8, hurt(group.group)),
    "problems": Part("a random routing problem", 1000, problems.problems),
    "memory": Part("steps of one run", 20_000, memory.flat),
    "decoding": Part("token by token, with every causal router", 1, decoding.decoded),
    "fuzz": Part("a random config", 2000, fuzz.configs),
}


def main(out: str, parts: Iterable[str], share: float) -> None:
    """Does the parts, each so many times; rows and table.

    Raises:
      UserError: at the end, if something was lost.
    """
    root = pathlib.Path(out)
    root.mkdir(parents=True, exist_ok=True)
    for name in parts:
        schema.one_of("--parts", name, PARTS)
        times = max(1, round(share * PARTS[name].times))
        if _done(root, name)["times"] < times:
            _do(PARTS[name], root, name, times)
    text = table(root)
    sealed.write(root / "table.md", text)
    print(f"\n{text}\n{root}/table.md, and a line for each in {root}/*.jsonl")
    lost = sum(row["outcome"] == "lost" for name in PARTS for row in _rows(root, name))
    schema.require(not lost, f"{lost} lost: see outcome 'lost' in {root}/*.jsonl")


def _done(root, name) -> dict:
    """How often a finished part did it, and where."""
    path = root / f"{name}.done.json"
    return sealed.read_json(path) if path.exists() else {"times": 0}


def _rows(root, name):
    path = root / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _do(part, root, name, times):
    """One part; its rows are written as they come, and have their name when all are there."""
    path = root / f"{name}.jsonl"
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w") as file, tqdm.tqdm(desc=f"{part.what}, {times}") as bar:
        for row in part.rows(root, times):
            file.write(json.dumps(row._asdict()) + "\n")
            file.flush()
            bar.update()
            if row.outcome == "lost":
                bar.write(f"{row.fault} LOST: {row.said}")
    unfinished.rename(path)
    about = {"times": times, "machine": files.machine()}
    sealed.write_json(root / f"{name}.done.json", about)


def table(root: pathlib.Path) -> str:
    """What was tried and what came of it, in Markdown."""
    lines = []
    for name, part in PARTS.items():
        done = _done(root, name)
        counts = collections.Counter(row["outcome"] for row in _rows(root, name))
        if done["times"]:
            numbers = (str(counts[outcome]) for outcome in COUNTED)
            commit = done["machine"]["commit"]
            lines.append([name, part.what, str(done["times"]), *numbers, commit])
    return markdown.table(["part", "fault", "times", *COUNTED, "commit"], lines) + "\n"


if __name__ == "__main__":
    OUT = flags.DEFINE_string("out", "runs/soak", "Where results go.")
    WHICH = flags.DEFINE_list("parts", list(PARTS), f"Some of {', '.join(PARTS)}.")
    SHARE = flags.DEFINE_float("share", 1.0, "Of the times that each part does.", lower_bound=0.0)
    command.run(lambda: main(OUT.value, WHICH.value, SHARE.value))
