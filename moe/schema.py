"""Frozen dataclasses made from ConfigDicts, and checks whose errors a user can act on.

Every configuration of the package is a frozen dataclass that validates itself. Modules and pure
functions see these, never a ConfigDict. A wrong value is an error that says what was expected, what
came and what to change; an unknown key names the nearest known one.

A dataclass may have two class methods of its own: `types(given)`, the types of fields that depend
on the values of others, and `unknown(fields)`, what to say of a key that it does not have.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import ml_collections

from moe.errors import UserError

T = TypeVar("T")


def from_config_dict(kind: type, config: ml_collections.ConfigDict, path: str = "") -> Any:
    """A frozen dataclass of type `kind` from a ConfigDict with the same keys.

    Raises:
      UserError: for an unknown key (naming the nearest known one), a missing one, or a bad value.
    """
    require(
        isinstance(config, Mapping | ml_collections.ConfigDict),
        f"{path.rstrip('.')}={config!r} must be a section with the fields of {kind.__name__}",
    )
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind) | (kind.types(config) if hasattr(kind, "types") else {})
    for key in config:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0)
            hint = f"did you mean {path}{near[0]}?" if near else ""
            if hasattr(kind, "unknown"):
                hint = kind.unknown(fields)
            raise UserError(f"unknown key {path}{key}: {hint}")
    needed = (f.name for f in fields.values() if f.default is f.default_factory)  # both MISSING
    missing = [path + name for name in needed if name not in config]
    require(not missing, f"missing {', '.join(missing)} for a {kind.__name__}")
    values = {k: _value(hints[k], config[k], path + k) for k in config}
    return kind(**values)


def complete(kind: type, given: dict) -> ml_collections.ConfigDict:
    """`given` with the defaults of every other field of `kind`, so that flags can override them."""
    return ml_collections.ConfigDict(to_dict(from_config_dict(kind, given)))


def to_dict(config: Any) -> dict:
    """A dataclass as plain nested dictionaries, for JSON."""
    return dataclasses.asdict(config)


def _value(hint, value, path):
    """`value` as the field's type: nested dataclasses are built, numbers are not guessed."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and types.NoneType in kinds:
        return None
    kind: Any = next(k for k in kinds if k is not types.NoneType)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return from_config_dict(kind, value, path + ".")
    if typing.get_origin(kind) is tuple:
        return _tuple(typing.get_args(kind)[0], value, path)
    if kind is float and type(value) is int:
        return float(value)
    require(type(value) is kind, f"{path}={value!r} must be a {kind.__name__}")
    return value


def _tuple(element, value, path):
    """`value` as a tuple of elements, which may be tuples themselves."""
    listed = isinstance(value, list | tuple)
    if typing.get_origin(element) is tuple:
        require(listed, f"{path}={value!r} must be a tuple of tuples")
        return tuple(_value(element, v, f"{path}[{i}]") for i, v in enumerate(value))
    fits = listed and all(type(v) is element for v in value)
    require(fits, f"{path}={value!r} must be a tuple of {element.__name__}: {(value,)}")
    return tuple(value)


def require(holds: bool, message: str) -> None:
    """Raises UserError(message) unless it holds."""
    if not holds:
        raise UserError(message)


def one_of(name: str, value: Any, options: Iterable[str]) -> None:
    """Refuses a value outside the options."""
    known = isinstance(value, str) and value in options
    require(known, f"{name}={value!r} is not one of {', '.join(map(repr, options))}")


def after_colon(value: str, sizes: Mapping[str, Callable[[], T]]) -> T:
    """The config that a flag names, as `cpu` in --config=configs/scaling.py:cpu.

    Args:
      value: what follows the colon.
      sizes: name -> what makes its config.

    Raises:
      UserError: if there is no such name.
    """
    one_of("what follows the colon", value, sizes)
    return sizes[value]()
