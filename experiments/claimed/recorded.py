"""What is recorded in `experiments/results/`."""

import functools
import json

from experiments import command
from moe.analysis import scaling

RESULTS = command.ROOT / "experiments" / "results"
Runs = dict[str, dict[int, dict]]  # variant -> seed -> record


@functools.cache
def lines(name: str) -> list[dict]:
    """The records of a file of JSON lines, which its readers leave as they are."""
    return [json.loads(line) for line in (RESULTS / name).read_text().splitlines()]


def looked(name: str) -> list[dict]:
    """The measurements of a file that `experiments.looks` wrote."""
    return [one["of"] | one["found"] for one in lines(name)]


def tables(name: str, title: str, **wanted: str) -> list[dict[str, str]]:
    """The rows of a Markdown file's tables, by column.

    Args:
      name: of the file.
      title: what a heading begins with, below which they stand; empty: wherever they stand.
      wanted: what columns must hold.
    """
    found, head, here = [], None, not title
    for line in (RESULTS / name).read_text().splitlines():
        if line.startswith("#"):
            here = line.lstrip("# ").startswith(title)
        if not line.startswith("|"):
            head = None
            continue
        values = [value.strip() for value in line.strip("|").split("|")]
        if head is None:
            head = values
        elif here and not line.startswith("| ---"):
            row = dict(zip(head, values, strict=True))
            found += [row] if all(row[key] == value for key, value in wanted.items()) else []
    return found


def table(name: str, title: str, **wanted: str) -> dict[str, str]:
    """The one such row."""
    (found,) = tables(name, title, **wanted)
    return found


def runs(study: str) -> Runs:
    """The longest runs of a study, see `scaling.by_variant`."""
    return scaling.by_variant(lines(f"{study}/results.jsonl"))


def command_of(program: str, config: str = "") -> str:
    """The command that made results; the config is the program's own unless it is named."""
    return f"python -m experiments.{program} --config=configs/{config or f'{program}.py:cpu'}"
