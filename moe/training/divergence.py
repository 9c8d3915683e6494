"""What a run does at a step that diverges: its loss or gradient is not finite, or a norm too large.

"stop" ends the run with an error. "skip" leaves parameters, optimizer and routers as they were, and
goes on with the next batch. "rewind" goes back to the last checkpoint, and on with the data after
the step: the batches between are never trained on (Chowdhery et al. 2022, PaLM, section 5.1).
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moe.training import files

POLICIES = ("stop", "skip", "rewind")
MOST = 10  # rewinds of a run
SPLIT = "diverged"  # of the records in metrics.jsonl


class Diverged(FloatingPointError):
    """A step that the policy does not go on after."""

    def __init__(self, step: int, said: str):
        super().__init__(said)
        self.step = step


class Rewind(NamedTuple):
    """Back to the state after step `start`, and on with the data that follows step `end`."""

    start: int
    end: int


def sound(loss: Any, norm: Any, largest: Any, xp: Any = jnp) -> Any:
    """Is a step's loss finite, and its gradient's norm, and at most `largest` (0 is any)?

    Args:
      loss, norm, largest: numbers or arrays.
      xp: the module that computes it: jax.numpy on devices, numpy on the host.
    """
    finite = xp.isfinite(loss) & xp.isfinite(norm)
    return finite & (norm <= largest) if largest else finite


def keep(good: jax.Array, new: Any, old: Any) -> Any:
    """The new tree after a sound step, else the old one."""
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)


def look(name: str, step: int, measured: dict, policy: str, largest: float) -> dict | None:
    """The record of a step that diverged, None of a sound one.

    Args:
      name: of the run, for the error.
      step: its number.
      measured: its metrics.
      policy: of `POLICIES`.
      largest: see `sound`.

    Raises:
      Diverged: if the policy is not to skip it.
    """
    loss, norm = (np.float32(measured[key]) for key in ("loss", "grad_norm"))
    if sound(loss, norm, np.float32(largest), np):
        return None
    if policy != "skip":
        raise Diverged(
            step,
            f"{name}: step {step} diverged, its loss is {loss:g} and its gradient's norm {norm:g}"
            + (f", over train.largest_grad_norm={largest:g}" if norm > largest > 0 else "")
            + ". Lower optimizer.learning_rate, or raise optimizer.warmup_steps, in a new workdir;"
            " or go on with train.on_divergence='skip' or 'rewind'",
        )
    return {"step": step, "split": SPLIT, "loss": float(loss), "grad_norm": float(norm)}


def rewinds(workdir: pathlib.Path) -> list[Rewind]:
    """Those of a run so far."""
    path = workdir / "rewinds.json"
    return [Rewind(*pair) for pair in files.read_json(path)["rewinds"]] if path.exists() else []


def rewind(workdir: pathlib.Path, start: int, error: Diverged) -> None:
    """Notes that a run goes back to the state after step `start`.

    Raises:
      Diverged: if it has done so often enough.
    """
    known = rewinds(workdir)
    if len(known) == MOST:
        raise Diverged(error.step, f"after {MOST} rewinds, {error}") from error
    files.barrier("rewinds were read")
    if jax.process_index() == 0:
        files.write_json(workdir / "rewinds.json", {"rewinds": [*known, (start, error.step)]})
    files.barrier("the rewind was written")


def position(known: list[Rewind], i: int) -> int:
    """Which batch of the data step i trains on: those before a rewind's end are left out."""
    return i + sum(end - start for start, end in known if start <= i)
