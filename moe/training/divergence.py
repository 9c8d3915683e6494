"""What a run does at a step that diverges: its loss or gradient is not finite, or a norm too large.

"stop" ends the run with an error. "skip" leaves parameters, optimizer and routers as they were, and
goes on with the next batch. "rewind" goes back to the last checkpoint, and on with the data after
the step: the batches between are never trained on (Chowdhery et al. 2022, PaLM, section 5.1).
"""

import itertools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moe import sealed
from moe.errors import NotFiniteError
from moe.training import metrics, processes

POLICIES = ("stop", "skip", "rewind")
MOST = 10  # rewinds of a run, and skipped steps one after the other
SPLIT = "diverged"  # of the records in metrics.jsonl


class Diverged(NotFiniteError):
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


def not_finite(tree: Any) -> list[str]:
    """The paths of arrays that hold NaN or an infinite number."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    finite = np.asarray(_finite([leaf for _, leaf in leaves]))
    return [
        jax.tree_util.keystr(path) for (path, _), one in zip(leaves, finite, strict=True) if not one
    ]


@jax.jit
def _finite(leaves):
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])


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


def last_in_a_row(records: list[dict], last: int) -> int:
    """How many steps up to the last one, of a checkpoint, were skipped, one after the other."""
    skipped = {record["step"] for record in records if record["split"] == SPLIT}
    return next(n for n in itertools.count() if last - n not in skipped)


def check_skipped(name: str, step: int, number: int) -> None:
    """Ends a run that skips and skips.

    Raises:
      Diverged: if it skipped more than `MOST` steps, one after the other.
    """
    if number > MOST:
        raise Diverged(
            step,
            f"{name}: step {step} is number {number} in a row that diverged and was skipped: lower"
            " optimizer.learning_rate, or raise train.largest_grad_norm, in a new workdir",
        )


def path(workdir: pathlib.Path) -> pathlib.Path:
    """Where a run notes its rewinds."""
    return workdir / "rewinds.json"


def rewinds(workdir: pathlib.Path) -> list[Rewind]:
    """Those of a run so far."""
    if not path(workdir).exists():
        return []
    return [Rewind(*pair) for pair in sealed.read_json(path(workdir), "rewinds")["rewinds"]]


def agreed(workdir: pathlib.Path) -> list[Rewind]:
    """The same in all processes: what the first reads, as another's disk may be late."""

    def padded():  # a rewind by nothing leaves out nothing
        known = rewinds(workdir)
        return np.array(known + [Rewind(0, 0)] * (MOST - len(known)), np.int32)

    said = processes.first_says(padded, (MOST, 2))
    return [Rewind(*pair) for pair in said.tolist() if any(pair)]


def counts(workdir: pathlib.Path) -> dict[str, int]:
    """How often a run went back and how many steps it skipped; nothing if it never did."""
    lines = metrics.read(workdir / "metrics.jsonl")
    skipped = sum(record["split"] == SPLIT for record in lines)
    found = {"rewinds": len(rewinds(workdir)), "skipped": skipped}
    return {name: number for name, number in found.items() if number}


def rewind(workdir: pathlib.Path, start: int, error: Diverged) -> None:
    """Notes that a run goes back to the state after step `start`.

    Raises:
      Diverged: if it has done so often enough.
    """
    known = agreed(workdir)
    if len(known) == MOST:
        raise Diverged(error.step, f"after {MOST} rewinds, {error}") from error
    if jax.process_index() == 0:
        sealed.write_json(path(workdir), {"rewinds": [*known, (start, error.step)]})
    processes.barrier("the rewind was written")


def position(known: list[Rewind], i: int) -> int:
    """Which batch of the data step i trains on: those before a rewind's end are left out."""
    return i + sum(end - start for start, end in known if start <= i)
