"""What a part is made of: cells, each measured by itself and written before the next one."""

from collections.abc import Callable
from typing import NamedTuple


class Skipped(Exception):
    """Raised by a cell that cannot run here; its text says why."""


class Cell(NamedTuple):
    """One measurement."""

    name: str
    run: Callable[[], dict]  # gives the fields of its row
    seconds: float  # a guess of what it takes on an accelerator, compilation included
