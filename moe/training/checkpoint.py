"""Checkpoints by orbax: the training state, and the seconds that it took."""

import collections
import pathlib

import jax
from orbax.checkpoint.experimental import v1 as orbax

FILE_NAMES = {"router_state": "routing"}  # of fields that were called otherwise at first

policies = orbax.training.preservation_policies


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
            about = {"seconds": seconds}
            self._checkpointer.save(step, _tree(state), force=True, custom_metadata=about)

    def restore(self, template):
        """(state, seconds) of the latest checkpoint laid out as the template, or None.

        Raises:
          ValueError: if the checkpoint is of another structure, as after a change of the code.
        """
        latest = self._checkpointer.latest
        if latest is None:
            return None
        metadata = self._checkpointer.metadata(latest.step)
        saved, wanted = _shapes(metadata.metadata), _shapes(template)
        if saved != wanted:
            raise ValueError(
                f"{self._checkpointer.directory}, step {latest.step}, was saved by other code: it"
                f" has arrays of shapes {sorted((saved - wanted).elements())} and lacks"
                f" {sorted((wanted - saved).elements())}. Start over in another workdir"
            )
        loaded = self._checkpointer.load(latest.step, _tree(template))
        return _state(template, loaded), metadata.custom_metadata["seconds"]

    def close(self) -> None:
        """Waits for writes to end."""
        self._checkpointer.close()


def _tree(state):
    """The state as files name it, without a router state that is empty: once there was none."""
    parts = {FILE_NAMES.get(name, name): part for name, part in state._asdict().items()}
    return {name: part for name, part in parts.items() if name != "routing" or part}


def _state(template, parts):
    """The training state of what a file holds."""
    names = {FILE_NAMES.get(name, name): name for name in template._fields}
    return template._replace(**{names[name]: part for name, part in parts.items()})


def _shapes(tree):
    """How many arrays of each shape a tree has."""
    return collections.Counter(tuple(leaf.shape) for leaf in jax.tree.leaves(tree))
