"""One time-boxed command for an accelerator that is lent for minutes.

    python -m experiments.accelerator --minutes=8 --out=runs/accelerator [--prepared=DIR] [--tiny]
        [--parts=layers,steps] [--only='^dense|hopper']

Its parts run in order of value, see `experiments.accelerator_parts`: is every dispatcher right,
what does a layer cost, how fast are training steps, and, for the time that is left, training.
Every result is on disk as soon as it is there, in OUT/rows.jsonl and OUT/report.md. A cell that
fails is written down with its error, and the next one runs; one that does not fit into the time
that is left is skipped, and the report says so. The same command with the same OUT goes on: it
measures what is missing, and training goes on from its checkpoints.

The first three parts need no data, no network and none of the packages that read text. Training
needs text: name a directory prepared elsewhere from this config,

    python -c "from configs import scaling; from experiments.accelerator_parts import training;
    training.prepare(scaling.gpu())"

which prints where it is.
"""

import gc
import pathlib
import re
import statistics
import time
import traceback
from collections.abc import Callable, Iterable

from absl import flags

from experiments import command
from experiments.accelerator_parts import conformance, layers, report, steps
from experiments.accelerator_parts.cells import Cell, Settings, Skipped


def training_cells(settings: Settings) -> list[Cell]:
    """Those of part 4, whose packages a lent machine may lack.

    Raises:
      Skipped: with the package that is missing, or if there is no data.
    """
    if settings.seconds_left() <= 0:
        raise Skipped("no time is left")
    try:
        from experiments.accelerator_parts import training
    except ImportError as error:
        raise Skipped(f"a package is missing: {error}") from error
    return training.cells(settings)


PARTS: dict[str, Callable[[Settings], Iterable[Cell]]] = {
    "conformance": conformance.cells,
    "layers": layers.cells,
    "steps": steps.cells,
    "training": training_cells,
}


def main(
    minutes: float,
    out: str,
    prepared_dir: str = "",
    tiny: bool = False,
    parts: Iterable[str] = tuple(PARTS),
    only: str = "",
) -> None:
    """Runs the parts until the time is over, of each the cells whose names `only` matches."""
    until = time.monotonic() + 60 * minutes
    root = pathlib.Path(out)
    settings = Settings(tiny, root, prepared_dir, lambda: until - time.monotonic())
    written = report.Report(root, minutes)
    for part in parts:
        _part(part, settings, written, only)
    print(f"\n{written.text()}\n{root}/rows.jsonl, report.md")


def _part(part, settings, written, only):
    """Every cell of a part, one after the other."""
    cells: list[Cell] = []
    _guarded(written, part, report.WHOLE, lambda: cells.extend(PARTS[part](settings)))
    seen: list[float] = []  # seconds of the cells that came to their end
    for cell in cells:
        if not re.search(only, cell.name):
            continue
        needs = cell.seconds if cell.elastic or not seen else statistics.mean(seen)
        left = settings.seconds_left()
        if written.is_done(part, cell.name):
            print(f"{part}, {cell.name}: measured before")
        elif left < needs:
            reason = f"{max(0, left):.0f} s are left, and it takes about {needs:.0f} s"
            written.add(part, cell.name, "skipped", reason=reason)
        else:
            _run(written, part, cell, seen)


def _run(written, part, cell, seen):
    """One cell; the seconds that it took are added to those seen if it came to its end."""
    began = time.monotonic()

    def measure() -> None:
        row = cell.run()
        seen.append(time.monotonic() - began)
        written.add(part, cell.name, row.pop("status", "done"), wall_seconds=seen[-1], **row)

    _guarded(written, part, cell.name, measure)
    gc.collect()  # arrays that a failed cell held
    print(f"{part}, {cell.name}: {time.monotonic() - began:.1f} s", flush=True)


def _guarded(written, part, name, call):
    """Calls; a failure is a row, and no more."""
    try:
        call()
    except Skipped as error:
        written.add(part, name, "skipped", reason=str(error))
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        written.add(part, name, "failed", reason=text, traceback=traceback.format_exc())


if __name__ == "__main__":
    MINUTES = flags.DEFINE_float("minutes", 8.0, "The time box.", lower_bound=0.0)
    OUT = flags.DEFINE_string("out", "runs/accelerator", "Where results go.")
    PREPARED = flags.DEFINE_string("prepared", "", "Prepared data for training.")
    TINY_FLAG = flags.DEFINE_bool("tiny", False, "Tiny shapes, for a CPU.")
    WHICH = flags.DEFINE_list("parts", list(PARTS), f"Some of {', '.join(PARTS)}.")
    ONLY = flags.DEFINE_string("only", "", "A regular expression: cells with such names.")
    command.run(
        lambda: main(
            MINUTES.value, OUT.value, PREPARED.value, TINY_FLAG.value, WHICH.value, ONLY.value
        )
    )
