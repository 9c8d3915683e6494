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


def runs(study: str) -> Runs:
    """The longest runs of a study, see `scaling.by_variant`."""
    return scaling.by_variant(lines(f"{study}/results.jsonl"))


def command_of(program: str, config: str = "") -> str:
    """The command that made results; the config is the program's own unless it is named."""
    return f"python -m experiments.{program} --config=configs/{config or f'{program}.py:cpu'}"
