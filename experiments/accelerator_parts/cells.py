"""What a part is made of: cells, each measured by itself and written before the next one."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

from moe.dispatch import hopper


class Skipped(Exception):
    """Raised by a cell that cannot run here; its text says why."""


def require(kernel: str, dtype: str, d_model: int, d_ff: int) -> None:
    """Skips a cell whose kernel of `grouped` does not multiply such experts here.

    Raises:
      Skipped: with what the kernel wants.
    """
    reason = hopper.misfit(dtype, d_model, d_ff) if kernel == "hopper" else ""
    if reason:
        raise Skipped(f"it wants {reason}")


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
