"""What a part is made of: cells, each measured by itself and written before the next one."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple


class Skipped(Exception):
    """Raised by a cell that cannot run here; its text says why."""


class Cell(NamedTuple):
    """One measurement."""

    name: str
    run: Callable[[], dict]  # gives the fields of its row; "status" among them if it is not "done"
    seconds: float  # a guess of what it takes on an accelerator, compilation included
    elastic: bool = False  # takes what time is left: `seconds` is what it needs at least


class Settings(NamedTuple):
    """What the command was told."""

    tiny: bool
    out: pathlib.Path
    prepared_dir: str
    seconds_left: Callable[[], float]
