"""Checkpoints by orbax, and the workdir that belongs to exactly one config."""

import json
import pathlib

import jax
from orbax.checkpoint.experimental import v1 as orbax

from moe import config as configs

policies = orbax.training.preservation_policies


def open_workdir(workdir: pathlib.Path, config) -> None:
    """Makes the workdir and writes config.json there.

    Raises:
      ValueError: if the workdir was made by a different config; the difference is shown.
    """
    path = workdir / "config.json"
    wanted = json.loads(json.dumps(configs.to_dict(config)))
    if path.exists():
        lines = difference(json.loads(path.read_text()), wanted)
        if lines:
            raise ValueError(
                f"{workdir} belongs to another config:\n  " + "\n  ".join(lines)
                + "\nName another workdir, or delete this one to start over."
            )  # fmt: skip
        return
    workdir.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        path.write_text(json.dumps(wanted, indent=2) + "\n")


def difference(old, new, path: str = "") -> list[str]:
    """One line for every leaf in which two nested dictionaries differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        missing = "(absent)"
        pairs = ((old.get(k, missing), new.get(k, missing), f"{path}.{k}") for k in keys)
        return [line for a, b, p in pairs for line in difference(a, b, p)]
    return [] if old == new else [f"{path.lstrip('.')}: it has {old!r}, you gave {new!r}"]


class Checkpoints:
    """The last checkpoints of a run: the training state and the seconds it took."""

    def __init__(self, workdir: pathlib.Path):
        self._checkpointer = orbax.training.Checkpointer(
            str((workdir / "checkpoints").resolve()),
            preservation_policy=policies.LatestN(n=1),
        )

    def save(self, step: int, state, seconds: float) -> None:
        """Saves, unless this step is already saved."""
        latest = self._checkpointer.latest
        if latest is None or latest.step != step:
            self._checkpointer.save(step, state, force=True, custom_metadata={"seconds": seconds})

    def restore(self, template):
        """(state, seconds) of the latest checkpoint laid out as the template, or None."""
        latest = self._checkpointer.latest
        if latest is None:
            return None
        metadata = self._checkpointer.metadata(latest.step)
        state = self._checkpointer.load(latest.step, template)
        return state, metadata.custom_metadata["seconds"]

    def close(self) -> None:
        """Waits for writes to end."""
        self._checkpointer.close()
