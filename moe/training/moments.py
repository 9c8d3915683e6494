"""The moments that adam keeps of gradients, as part of another run's checkpoint.

Where a run starts from another one's parameters, its optimizer begins anew, or with the moments of
those parameters: both are known from upcycling (Komatsuzaki et al. 2022, section 4.1).
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import optax

from moe import paths, schema
from moe.initialisation.mapping import Origin

PARTS = ("mu", "nu")


class Adam(NamedTuple):
    """Moments of gradients, and how many gradients they are of."""

    count: Any
    mu: Any
    nu: Any


def of(state: optax.OptState) -> Adam | None:
    """The moments in an optimizer's state, if they are adam's."""
    found = _adam(state)
    return Adam(*found[1]) if found else None


def named(state: optax.OptState, moments: Adam | None = None) -> dict[str, Any]:
    """The moments by their paths in a checkpoint.

    Args:
      state: of the optimizer.
      moments: others than those that it has.

    Raises:
      UserError: if the optimizer is another than adamw.
    """
    at, own = _required(state)
    return {f"{at}/{path}": x for path, x in paths.named((moments or own)._asdict()).items()}


def _required(state):
    found = _adam(state)
    schema.require(
        found is not None,
        "init_from.optimizer=True takes adam's moments: set optimizer.name='adamw'",
    )
    return found


def _adam(state):
    """Where it lies, and itself, if there is any."""
    leaves = jax.tree_util.tree_leaves_with_path(state, is_leaf=_is_adam)
    found = ((paths.name(path), leaf) for path, leaf in leaves if _is_adam(leaf))
    return next(((f"optimizer/{at}", adam) for at, adam in found), None)


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
    at, _ = _required(state)
    there = _place(saved)
    found = {}
    for path in named(state):
        part, _, parameter = path.removeprefix(f"{at}/").partition("/")
        origin = of_parameters[parameter] if part in PARTS else Origin("take", "")
        source = None if origin.saved is None else f"{there}/{part}/{origin.saved}".rstrip("/")
        schema.require(
            source is None or source in saved,
            f"init_from.optimizer=True: the checkpoint has no {source}: it was trained with this"
            " parameter frozen. Use init_from.optimizer=False, or draw the parameter afresh",
        )
        found[path] = Origin(origin.rule, source)
    return found


def _place(saved):
    """Where adam's moments lie in a checkpoint: elsewhere if some parameters were frozen."""
    found = {path.partition("/mu/")[0] for path in saved if re.match("optimizer/.*/mu/", path)}
    schema.require(
        len(found) == 1,
        "init_from.optimizer=True: the checkpoint has no moments of adam. Use"
        " init_from.optimizer=False",
    )
    return found.pop()


def require_begun(made: Mapping[str, jax.Array]) -> None:
    """Refuses moments of no gradient, which a model has that was changed and not trained since.

    Args:
      made: arrays by path, of `named` among others.

    Raises:
      UserError: with what to do.
    """
    (count,) = (x for path, x in made.items() if re.match("optimizer/.*/count", path))
    schema.require(
        int(count) > 0,
        "init_from.optimizer=True: the checkpoint's optimizer has not begun, so that there are no"
        " moments to go on with. Use init_from.optimizer=False",
    )


def replaced(state: optax.OptState, made: Mapping[str, jax.Array]) -> optax.OptState:
    """The state with other moments, given by path; schedules stay where they are."""

    def new(path: tuple, x: Any) -> Any:
        return made.get(f"optimizer/{paths.name(path)}", x)

    return jax.tree_util.tree_map_with_path(new, state)
