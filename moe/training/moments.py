"""The moments that adam keeps of gradients, as part of another run's checkpoint.

Where a run starts from another one's parameters, its optimizer begins anew, or with the moments of
those parameters: both are known from upcycling (Komatsuzaki et al. 2022, section 4.1).
"""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from moe import paths, schema
from moe.initialisation.mapping import Origin

PARTS = ("mu", "nu")


def named(state: optax.OptState) -> dict[str, Any]:
    """The moments, and how many gradients they are of, by their paths in a checkpoint.

    Raises:
      UserError: if the optimizer is another than adamw.
    """
    at, adam = _adam(state)
    return {f"{at}/{path}": x for path, x in paths.named(adam._asdict()).items()}


def _adam(state):
    """Where it lies, and itself."""
    leaves = jax.tree_util.tree_leaves_with_path(state, is_leaf=_is_adam)
    found = [(paths.name(path), leaf) for path, leaf in leaves if _is_adam(leaf)]
    schema.require(
        len(found) == 1, "init_from.optimizer=True takes adam's moments: set optimizer.name='adamw'"
    )
    return f"optimizer/{found[0][0]}", found[0][1]


def _is_adam(x):
    return isinstance(x, optax.ScaleByAdamState)


def origins(
    state: optax.OptState, of_parameters: Mapping[str, Origin], saved: Mapping[str, Any]
) -> dict[str, Origin]:
    """Where each moment comes from: whence its parameter comes, and by the same rule.

    Args:
      state: of the optimizer, or its shapes.
      of_parameters: by path.
      saved: the shapes of what is saved, by path.

    Raises:
      UserError: if a moment is not there.
    """
    at, _ = _adam(state)
    found = {}
    for path in named(state):
        part, _, parameter = path.removeprefix(f"{at}/").partition("/")
        origin = of_parameters[parameter] if part in PARTS else Origin("take", "")
        source = None if origin.saved is None else f"{at}/{part}/{origin.saved}".rstrip("/")
        schema.require(
            source is None or source in saved,
            f"init_from.optimizer=True: the checkpoint has no {source}. Was it trained with another"
            " optimizer, or with this parameter frozen? Use init_from.optimizer=False",
        )
        found[path] = Origin(origin.rule, source)
    return found


def replaced(state: optax.OptState, made: Mapping[str, jax.Array]) -> optax.OptState:
    """The state with other moments, given by path; schedules stay where they are."""

    def new(path: tuple, x: Any) -> Any:
        return made.get(f"optimizer/{paths.name(path)}", x)

    return jax.tree_util.tree_map_with_path(new, state)
