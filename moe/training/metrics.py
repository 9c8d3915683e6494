"""Metrics as JSON lines, written one step late so that the device never waits for the host.

A number that is not finite is null in the file, since JSON knows no NaN, and NaN for who reads it.
"""

import json
import math
import pathlib
from typing import Any

import jax
import numpy as np

from moe import legacy, sealed
from moe.errors import UserError


class Writer:
    """Appends records to `metrics.jsonl`; only process 0 writes.

    Opening removes what a crashed run wrote after its last checkpoint: no step stands twice.
    """

    def __init__(self, path: pathlib.Path, first_step: int):
        self._leads = jax.process_index() == 0
        self._late: dict | None = None
        self._path = path
        if not self._leads:
            return
        before = path.read_bytes() if path.exists() else b""
        kept = up_to(path, before, first_step) if first_step else b""
        if kept != before:
            sealed.write(path, kept.decode())
        self._file = path.open("a")

    def read(self) -> list[dict]:
        """What the run wrote so far; nothing in a process that does not write."""
        return read(self._path) if self._leads else []

    def write(self, record: dict) -> dict | None:
        """Writes the previous record, which is ready by now, keeps this one, returns the former."""
        previous = self._late
        self.flush()
        self._late = record
        return previous

    def flush(self) -> None:
        """Writes what is kept, waiting for it."""
        if self._late is not None and self._leads:
            self._file.write(_line(plain(self._late)))
            self._file.flush()
        self._late = None

    def close(self) -> None:
        """Flushes and closes the file."""
        self.flush()
        if self._leads:
            self._file.close()


def up_to(path: pathlib.Path, content: bytes, step: int) -> bytes:
    """The lines of a file's content up to a step, as they are.

    Raises:
      UserError: for a line that is no record of a step.
    """
    kept = []
    for line, record in zip(content.splitlines(), _records(path, content), strict=False):
        if not isinstance(record.get("step"), int):
            raise UserError(f"{path} has a line without a step: {line[:80]!r}")
        if record["step"] <= step:
            kept.append(line + b"\n")
    return b"".join(kept)


def read(path: pathlib.Path | str) -> list[dict]:
    """The records of a file of JSON lines; a last one that a crash has cut off is left out."""
    return _records(path, pathlib.Path(path).read_bytes())


def _records(path, content):
    lines = content.splitlines()
    records = []
    for number, line in enumerate(lines):
        try:
            records.append({**_replaced(legacy.metrics(json.loads(line)), _is_null, math.nan)})
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            if number < len(lines) - 1:
                raise UserError(f"{path} line {number + 1} is no record: {error!r}") from error
    return records


def _line(record):
    return json.dumps(_replaced(record, _is_not_finite, None), allow_nan=False) + "\n"


def _is_null(value):
    return value is None


def _is_not_finite(value):
    return isinstance(value, float) and not math.isfinite(value)


def _replaced(tree, which, new):
    """Nested dictionaries and lists with `new` for some of their values."""
    if isinstance(tree, dict):
        return {key: _replaced(value, which, new) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_replaced(value, which, new) for value in tree]
    return new if which(tree) else tree


def plain(tree: dict) -> dict:
    """Arrays as numbers and lists with six digits, for JSON; dictionaries may be nested."""

    def convert(x: Any) -> Any:
        if isinstance(x, dict):
            return plain(x)
        array = np.asarray(x)
        if array.dtype.kind == "f":
            array = np.vectorize(lambda v: float(f"{v:.6g}"), otypes=[float])(array)
        return array.tolist()

    return {k: v if isinstance(v, str) else convert(v) for k, v in tree.items()}
