"""Parameters by their paths, such as block/layer_1/moe/experts/w_in.

Patterns are regular expressions that must match a whole path.
"""

import re
from typing import Any

import jax

from moe.errors import UserError


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name(path): leaf for path, leaf in leaves}


def name(path: tuple[Any, ...]) -> str:
    """A path of jax.tree_util as a string."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def matches(patterns: tuple[str, ...], path: str) -> bool:
    """Does any of the patterns match the whole path?"""
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def check(pattern: str, field: str) -> None:
    """Refuses what is no regular expression.

    Args:
      pattern: what came.
      field: the name of the config's field, for the error.

    Raises:
      UserError: with the reason.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"{field} has {pattern!r}, no regular expression: {error}") from error


def check_used(patterns: tuple[str, ...], paths: Any, field: str) -> None:
    """Refuses patterns that match none of the paths: whoever wrote them expects something of them.

    Raises:
      UserError: with the pattern and the paths.
    """
    for pattern in patterns:
        if not any(matches((pattern,), path) for path in paths):
            raise UserError(
                f"{field} has {pattern!r}, which matches no parameter. It must match a whole path"
                f" of these: {', '.join(paths)}"
            )


def frozen(tree: Any, patterns: tuple[str, ...]) -> Any:
    """The tree, whose leaves at these paths get no gradient."""
    if not patterns:
        return tree

    def stop(path: tuple, leaf: jax.Array) -> jax.Array:
        return jax.lax.stop_gradient(leaf) if matches(patterns, name(path)) else leaf

    return jax.tree_util.tree_map_with_path(stop, tree)


def pruned(tree: Any) -> Any:
    """The tree without the branches of its dictionaries that hold nothing."""
    if not isinstance(tree, dict):
        return tree
    return {name: pruned(part) for name, part in tree.items() if jax.tree.leaves(part)}
