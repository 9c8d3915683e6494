"""What is compiled for: the platform at hand, or another that a plan asks its compiler about."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_TARGET: contextvars.ContextVar[str] = contextvars.ContextVar("target", default="")


def platform() -> str:
    """As `jax.default_backend()` names it: "cpu", "gpu" or "tpu"."""
    return _TARGET.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """While the block runs, models choose what is fast on this platform."""
    token = _TARGET.set(name)
    try:
        yield
    finally:
        _TARGET.reset(token)
