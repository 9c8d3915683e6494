"""Checkpoints by orbax: the training state, and the seconds that it took."""

import contextlib
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint.experimental import v1 as orbax

from moe import legacy, paths
from moe.training.step import State

_PARAMETERS = re.compile("^params/")

policies = orbax.training.preservation_policies


class Checkpoints:
    """The last checkpoints of a run: the training state and the seconds it took."""

    def __init__(self, workdir: pathlib.Path):
        self._checkpointer = orbax.training.Checkpointer(
            str((workdir / "checkpoints").resolve()),
            preservation_policy=policies.LatestN(n=1),
        )

    @property
    def latest(self) -> int | None:
        """The step of the last checkpoint, None if there is none."""
        found = self._checkpointer.latest
        return None if found is None else found.step

    def save(self, step: int, state: State, seconds: float) -> None:
        """Saves, unless this step is already saved.

        Raises:
          FloatingPointError: if the state holds NaN or infinity; the last checkpoint stays.
        """
        if self.latest != step:
            self._require_finite(step, state)
            about = {"seconds": seconds}
            self._checkpointer.save(step, state._asdict(), force=True, custom_metadata=about)

    def parameters(self) -> dict[str, jax.ShapeDtypeStruct]:
        """What the latest checkpoint holds of parameters and router state, by path.

        Raises:
          ValueError: if there is no checkpoint.
        """
        if self.latest is None:
            raise ValueError(f"{self._checkpointer.directory} holds no checkpoint yet")
        return {
            _PARAMETERS.sub("", path): jax.ShapeDtypeStruct(x.shape, x.dtype)
            for path, x in self._saved().items()
            if path.startswith(("params/", "router_state/"))
        }

    def load_parameters(self, wanted: dict[str, jax.sharding.Sharding]) -> dict[str, jax.Array]:
        """Some of the parameters of the latest checkpoint; nothing else is read.

        Args:
          wanted: the paths, as `parameters` gives them, and how each array is to lie.
        """
        templates = {
            path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=wanted[own])
            for path, x in self._saved().items()
            if (own := _PARAMETERS.sub("", path)) in wanted
        }
        return {_PARAMETERS.sub("", path): x for path, x in self._load(templates).items()}

    def restore(self, template: State) -> tuple[State, float] | None:
        """(state, seconds) of the latest checkpoint laid out as the template, or None.

        Raises:
          ValueError: if the checkpoint is of another structure, as after a change of the code.
        """
        if self.latest is None:
            return None
        wanted = paths.named(template)
        saved = _shapes(self._saved())
        if saved != _shapes(wanted):
            raise ValueError(
                f"{self._checkpointer.directory}, step {self.latest}, was saved by other code: it"
                f" has {_listed(saved - _shapes(wanted))} and lacks"
                f" {_listed(_shapes(wanted) - saved)}. Start over in another workdir"
            )
        loaded = self._load(wanted)
        state = jax.tree_util.tree_map_with_path(lambda path, _: loaded[paths.name(path)], template)
        about = self._checkpointer.metadata(self.latest).custom_metadata
        return state, about["seconds"]

    def _saved(self):
        """What is known of every array of the latest checkpoint, by its path of today."""
        saved = paths.named(self._checkpointer.metadata(self.latest).metadata)
        return {legacy.saved_path(path): x for path, x in saved.items()}

    def _load(self, wanted):
        """Arrays of the latest checkpoint, by path; what is not wanted is not read.

        Args:
          wanted: arrays, or shapes with shardings, by path.
        """
        if not wanted:
            return {}

        def template(path: tuple, _: Any) -> Any:
            return wanted.get(legacy.saved_path(paths.name(path)))

        saved = self._checkpointer.metadata(self.latest).metadata
        context = orbax.Context()
        context.pytree.loading.partial_load = True
        with context:
            parts = _pruned(jax.tree_util.tree_map_with_path(template, saved))
            loaded = paths.named(self._checkpointer.load(self.latest, parts))
        return {legacy.saved_path(path): x for path, x in loaded.items()}

    def _require_finite(self, step, state):
        bad = not_finite(state)
        if not bad:
            return
        kept = "there is no earlier checkpoint"
        if self.latest is not None:
            kept = f"the checkpoint of step {self.latest} is sound and stays"
        more = f" and {len(bad) - 1} arrays more" if len(bad) > 1 else ""
        raise FloatingPointError(
            f"step {step}: state{bad[0]}{more} are not finite, so the state was not saved; {kept}."
            " Lower optimizer.learning_rate, or raise optimizer.warmup_steps, in a new workdir"
        )

    def close(self) -> None:
        """Waits for writes to end."""
        self._checkpointer.close()


def exists(workdir: pathlib.Path) -> bool:
    """Does the run in this folder have a checkpoint?"""
    if not (workdir / "checkpoints").is_dir():
        return False
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        return checkpoints.latest is not None


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


def _pruned(tree):
    """The tree without the branches of its dictionaries that hold nothing."""
    if not isinstance(tree, dict):
        return tree
    return {name: _pruned(part) for name, part in tree.items() if jax.tree.leaves(part)}


def _shapes(arrays):
    """Paths with shapes."""
    return {(path, tuple(x.shape)) for path, x in arrays.items()}


def _listed(arrays, most=6):
    """Some arrays for an error."""
    found = [f"{path} {shape}" for path, shape in sorted(arrays)]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more or "nothing more"
