"""What came out so far, on disk at any moment: OUT/rows.jsonl, a line a cell, and OUT/report.md.

A later call with the same OUT adds lines. What was measured on the same devices by the same JAX and
commit is not measured again; of several lines of a cell the last counts.
"""

import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

from moe import sealed
from moe.analysis import markdown
from moe.training import files

WHOLE = "the whole part"  # in place of a cell, if none came to be
SAME = ("devices", "jax", "commit")  # of the machine, for a row to be kept
Column = Callable[[dict], str]


def number(key: str, form: str = ".3g", scale: float = 1.0) -> Column:
    """A column of numbers, empty where a row has none."""

    def shown(row: dict) -> str:
        value = row.get(key)
        if value is None or isinstance(value, str):
            return value or ""
        return f"{value * scale:{form}}"

    return shown


def verdict(row: dict) -> str:
    """Were all groups of a row of `conformance` right? If not, the first that were wrong."""
    return "yes" if row["ok"] else "NO: " + "; ".join(row["wrong"][:3])


def _both_ways() -> dict[str, Column]:
    columns = {}
    for way in ("forward", "training"):
        columns[f"{way}, ms"] = number(f"{way}_ms")
        columns[f"{way}, TFLOP/s"] = number(f"{way}_tflops")
        columns[f"{way}, over dense"] = number(f"{way}_ratio_to_dense", ".2f")
        columns[f"{way}, GiB"] = number(f"{way}_peak_bytes", ".2f", 2**-30)
    return columns


COLUMNS: dict[str, dict[str, Column]] = {  # of the table of each part
    "conformance": {
        "y": number("y", ".1e"), "dx": number("dx", ".1e"), "dw": number("dw", ".1e"),
        "tolerance": number("tolerance", "g"), "within": verdict,
    },
    "layers": {"rows computed a choice": number("computed_rows", ".2f"), **_both_ways()},
    "steps": {
        "ms": number("ms"), "tokens/s": number("tokens_per_second", ",.0f"),
        "TFLOP/s": number("tflops"), "MFU, %": number("mfu", ".1f", 100),
        "GiB": number("peak_bytes", ".2f", 2**-30),
        "parameters": number("total_parameters", ",.0f"),
        "active": number("active_parameters", ",.0f"), "attention": number("attention"),
    },
    "training": {
        "step": number("step", ",.0f"), "of": number("steps", ",.0f"),
        "validation, nats": number("validation_nll", ".4f"),
        "test, nats": number("test_nll", ".4f"), "seconds": number("training_seconds", ",.0f"),
    },
}  # fmt: skip


class Report:
    """Rows in OUT, and the tables made of them."""

    def __init__(self, out: pathlib.Path, minutes: float):
        out.mkdir(parents=True, exist_ok=True)
        self._out = out
        self._machine = files.machine()
        self._rows = _read(out / "rows.jsonl")
        self._append({"part": "start", "minutes": minutes, "machine": self._machine})

    def is_done(self, part: str, cell: str) -> bool:
        """Was this cell measured before, here and by this code?"""
        row = self._latest().get((part, cell))
        clean = not self._machine["commit"].endswith("-dirty")
        return bool(row and clean and row["status"] == "done" and row["on"] == self._on())

    def add(self, part: str, cell: str, status: str, **fields: Any) -> None:
        """Writes a row and the report; status is done, unfinished, skipped or failed."""
        row = {"part": part, "cell": cell, "status": status, "on": self._on(), **fields}
        self._append(_plain(row))
        sealed.write(self._out / "report.md", self.text())

    def text(self) -> str:
        """The whole report in markdown."""
        blocks = ["# What was measured", _machine_text(self._machine)]
        for part in COLUMNS:
            rows = [row for (of, _), row in self._latest().items() if of == part]
            if rows:
                blocks += [f"## {part}", *_part(part, rows)]
        return "\n\n".join(blocks) + "\n"

    def _on(self):
        return {name: self._machine[name] for name in SAME}

    def _latest(self):
        """(part, cell) -> its last row; one that was skipped hides none that was not."""
        found: dict[tuple[str, str], dict] = {}
        for row in self._rows:
            if row["part"] == "start":
                continue
            found.pop((row["part"], WHOLE), None)
            key = row["part"], row["cell"]
            if row["status"] != "skipped" or found.get(key, row)["status"] == "skipped":
                found[key] = row
        return found

    def _append(self, row):
        self._rows.append(row)
        with (self._out / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _part(part, rows):
    """The table of what has numbers, and lines for what has a reason."""
    done = [row for row in rows if row["status"] in ("done", "unfinished")]
    columns = COLUMNS[part]
    blocks = []
    if done:
        lines = ([row["cell"], *(cell(row) for cell in columns.values())] for row in done)
        blocks.append(markdown.table(["", *columns], lines))
    said = [f"- {row['cell']}: {row['status']}, {_short(row)}" for row in rows if "reason" in row]
    if said:
        blocks.append("\n".join(said))
    return blocks


def _short(row, longest: int = 300):
    """The reason in one line; rows.jsonl has all of it."""
    line = " ".join(row["reason"].split())
    return line if len(line) <= longest else line[:longest] + "..."


def _machine_text(machine):
    return "\n".join(f"- {name}: {value}" for name, value in machine.items() if value)


def _plain(value):
    """For JSON, which knows no infinity."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _read(path):
    """The rows of earlier calls; a last line that was cut off is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
