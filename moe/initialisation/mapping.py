"""Which saved parameter, and which rule, makes each parameter of a model."""

import difflib
import re
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax

from moe import initialisation, paths, schema, sharding
from moe.errors import UserError


class Origin(NamedTuple):
    """How one parameter comes about."""

    rule: str
    saved: str | None  # the path of the saved parameter, if the rule reads one


def origins(
    config: initialisation.InitConfig, drawn: dict[str, Any], saved: dict[str, Any]
) -> dict[str, Origin]:
    """The origin of every parameter of a model.

    Args:
      config: the rules.
      drawn: the model's arrays, or their shapes, by path.
      saved: the shapes of what is saved, by path.

    Raises:
      UserError: for a parameter without a rule, a rule that matches no parameter, a saved
        parameter that is missing, of a wrong shape, or neither read nor left out.
    """
    paths.check_used(tuple(rule[0] for rule in config.rules), drawn, "init_from.rules")
    paths.check_used(config.leave_out, saved, "init_from.leave_out")
    found = {path: _origin(config, path, saved) for path in drawn}
    for path, origin in found.items():
        _check_shape(path, origin, drawn[path], saved)
    _check_all_read(config, found.values(), saved)
    return found


def _origin(config, path, saved):
    for pattern, rule, *template in config.rules:
        match = re.fullmatch(pattern, path)
        if match:
            return _from_match(match, rule, template, saved)
    raise UserError(
        f"no rule of init_from.rules matches the parameter {path}: add ({path!r}, 'fresh') to draw"
        " it afresh, or another rule"
    )


def _from_match(match, rule, template, saved):
    if not initialisation.RULES[rule].reads:
        return Origin(rule, None)
    path = _expanded(match, template[0]) if template else match.string
    if path in saved:
        return Origin(rule, path)
    near = difflib.get_close_matches(path, saved, n=1, cutoff=0)
    raise UserError(
        f"init_from wants to {rule} {path} for {match.string}, but the checkpoint has no such"
        f" parameter{f'; the nearest is {near[0]}' if near else ''}. Name another as the third part"
        " of the rule, or use the rule 'fresh'"
    )


def _expanded(match, template):
    try:
        return match.expand(template)
    except (re.error, IndexError) as error:
        raise UserError(
            f"init_from.rules reads {template!r}, whose groups {match.re.pattern!r} does not have:"
            f" {error}"
        ) from error


def _check_shape(path, origin, drawn, saved):
    if origin.saved is None:
        return
    source = saved[origin.saved]
    rule = initialisation.RULES[origin.rule].apply
    try:
        shape = jax.eval_shape(rule, _shape(drawn), _shape(source), jax.random.key(0)).shape
    except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        shape = f"nothing ({error})"
    schema.require(
        shape == drawn.shape,
        f"init_from: {origin.rule} makes {shape} of the saved {origin.saved}"
        f" {tuple(source.shape)}, and {path} is {tuple(drawn.shape)}",
    )


def _shape(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _check_all_read(config, found: Iterable[Origin], saved):
    read = {origin.saved for origin in found}
    unread = [p for p in saved if p not in read and not paths.matches(config.leave_out, p)]
    schema.require(
        not unread,
        f"init_from reads nothing of the saved {', '.join(unread)}: name them in"
        " init_from.leave_out if that is meant",
    )


def make(path: str, origin: Origin, drawn: jax.Array, saved: jax.Array | None) -> jax.Array:
    """One parameter, laid out on the mesh as the one drawn.

    Args:
      path: of the parameter; its key is made of it.
      origin: its origin.
      drawn: as training from scratch draws it.
      saved: the parameter that the origin names, if it names one.
    """
    rule = initialisation.RULES[origin.rule]
    key = jax.random.key(zlib.crc32(path.encode()))
    return sharding.laid_out_as(drawn, rule.apply)(drawn, saved, key)
