"""What differs between the JAX versions we support (0.10 to 0.12): the only place that knows."""

import jax
from jax.extend import core
from jax.interpreters import partial_eval


def without_dead_code(jaxpr):
    """The jaxpr without equations whose results nothing needs."""
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)[0]


def inner_jaxprs(eqn):
    """The jaxprs that one equation runs, whatever its parameters are called."""
    for value in jax.tree.leaves(tuple(eqn.params.values()), is_leaf=_is_jaxpr):
        if _is_jaxpr(value):
            yield getattr(value, "jaxpr", value)


def _is_jaxpr(value):
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)
