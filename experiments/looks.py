"""What is measured of finished runs, each once: a line of a file, so that it goes on."""

import json
import pathlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

from experiments import records
from moe.analysis import plots
from moe.errors import UserError
from moe.training import folders as checkpoints

Look = tuple[dict[str, Hashable], Callable[[], dict]]  # what it is of, and the measurement


def measured(path: pathlib.Path, looks: Iterable[Look]) -> list[dict]:
    """The measurements, in their order; what the file has is not measured again.

    Args:
      path: of a JSON-lines file, which grows.
      looks: what to measure.

    Raises:
      UserError: if the file is damaged.
    """
    known = dict(_read(path))
    found = []
    for of, look in looks:
        key = frozenset(of.items())
        if key not in known:
            known[key] = look()
            with path.open("a") as file:
                file.write(json.dumps({"of": of, "found": known[key]}) + "\n")
        found.append({**of, **known[key]})
    return found


def _read(path):
    text = path.read_text() if path.exists() else ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            one = json.loads(line)
            yield frozenset(one["of"].items()), one["found"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"line {number} of {path} is damaged ({error!r}): delete it to measure it anew"
            ) from error


def report(root: pathlib.Path, name: str, text: str, drawn: Any, of: str = "") -> None:
    """Writes <name>.md and <name>.png, prints the table, says where they are and what they are of.

    Args:
      root: the study's folder.
      name: of both.
      text: the table.
      drawn: the figure.
      of: the file of measurements, <name>.jsonl unless it is given.
    """
    (root / f"{name}.md").write_text(text + "\n")
    plots.save(drawn, root / f"{name}.png")
    print(f"\n{text}\n")
    for file in (of or f"{name}.jsonl", f"{name}.md", f"{name}.png"):
        print(root / file)


def require_checkpoint(path: pathlib.Path) -> None:
    """Refuses a run of which only the record is here, as earlier.jsonl brings it.

    Raises:
      UserError: with its workdir.
    """
    if not checkpoints.exists(path):
        raise UserError(
            f"{path} has no checkpoint, which is what is measured: of runs in earlier.jsonl only"
            " what was measured where they are, in a file beside it, can be shown"
        )


def folders(
    runs: records.Runs, root: pathlib.Path, seeds: range
) -> Iterator[tuple[dict[str, Hashable], pathlib.Path]]:
    """What each run of a study is, and its workdir."""
    for name, path, seed in records.in_turn(runs, root, seeds):
        of = {"variant": records.variant_of(name), "seed": seed, "steps": runs[name].train.steps}
        yield of, path
