"""Checkpoints by orbax: the training state, and the seconds that it took."""

import contextlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint.experimental import v1 as orbax

from moe import paths
from moe.training.step import State

FILE_NAMES = {"router_state": "routing"}  # of fields that were called otherwise at first

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
            self._checkpointer.save(step, _tree(state), force=True, custom_metadata=about)

    def parameters(self) -> dict[str, jax.ShapeDtypeStruct]:
        """What the latest checkpoint holds of parameters and router state, by path.

        Raises:
          ValueError: if there is no checkpoint.
        """
        latest = self.latest
        if latest is None:
            raise ValueError(f"{self._checkpointer.directory} holds no checkpoint yet")
        saved = self._checkpointer.metadata(latest).metadata
        return {
            path: jax.ShapeDtypeStruct(x.shape, x.dtype)
            for path, x in paths.named(_parameters(saved)).items()
        }

    def load_parameters(self, wanted: dict[str, jax.sharding.Sharding]) -> dict[str, jax.Array]:
        """Some of the parameters of the latest checkpoint; nothing else is read.

        Args:
          wanted: the paths, as `parameters` gives them, and how each array is to lie.
        """
        saved = self._checkpointer.metadata(self.latest).metadata

        def template(path: tuple, x: Any) -> jax.ShapeDtypeStruct | None:
            if paths.name(path) not in wanted:
                return None
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=wanted[paths.name(path)])

        tree = jax.tree_util.tree_map_with_path(template, _parameters(saved))
        parts = {"params": {k: v for k, v in tree.items() if k != "router_state"}}
        if jax.tree.leaves(tree.get("router_state")):
            parts[FILE_NAMES["router_state"]] = tree["router_state"]
        context = orbax.Context()
        context.pytree.loading.partial_load = True
        with context:
            loaded = self._checkpointer.load(self.latest, _without_none(parts))
        return paths.named(_parameters(loaded))

    def restore(self, template: State) -> tuple[State, float] | None:
        """(state, seconds) of the latest checkpoint laid out as the template, or None.

        Raises:
          ValueError: if the checkpoint is of another structure, as after a change of the code.
        """
        latest = self._checkpointer.latest
        if latest is None:
            return None
        metadata = self._checkpointer.metadata(latest.step)
        saved = _shapes(metadata.metadata)
        wanted = _shapes(_tree(template))
        if saved != wanted:
            raise ValueError(
                f"{self._checkpointer.directory}, step {latest.step}, was saved by other code: it"
                f" has {_listed(saved - wanted)} and lacks {_listed(wanted - saved)}. Start over in"
                " another workdir"
            )
        loaded = self._checkpointer.load(latest.step, _tree(template))
        return _state(template, loaded), metadata.custom_metadata["seconds"]

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


def _tree(state):
    """The state as files name it, without a router state that is empty: once there was none."""
    parts = {FILE_NAMES.get(name, name): part for name, part in state._asdict().items()}
    return {name: part for name, part in parts.items() if name != "routing" or part}


def _parameters(parts):
    """Parameters and router state of what a file holds, as one tree."""
    found = dict(parts.get("params", {}))
    router_state = parts.get(FILE_NAMES["router_state"])
    return found | ({"router_state": router_state} if router_state else {})


def _without_none(tree):
    """The tree of dictionaries without leaves that are None, and without empty branches."""
    if not isinstance(tree, dict):
        return tree
    branches = {name: _without_none(branch) for name, branch in tree.items()}
    return {name: x for name, x in branches.items() if x is not None and x != {}}


def _state(template, parts):
    """The training state of what a file holds."""
    names = {FILE_NAMES.get(name, name): name for name in template._fields}
    return template._replace(**{names[name]: part for name, part in parts.items()})


def _shapes(tree):
    """The paths of a tree's arrays with their shapes."""
    return {(path, tuple(leaf.shape)) for path, leaf in paths.named(tree).items()}


def _listed(arrays, most=6):
    """Some arrays for an error."""
    found = [f"{path} {shape}" for path, shape in sorted(arrays)]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more or "nothing more"
