"""What differs between the JAX versions we support (0.10 to 0.12): the only place that knows."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

# Where XLA has a kernel for `jax.lax.ragged_dot` and for its gradients. Elsewhere it multiplies
# every row with every expert; that of JAX 0.10 on TPUs does so in the weights' gradient.
RAGGED_DOT = ("tpu",) if jax.__version_info__ >= (0, 11) else ()

# Does XLA multiply bfloat16 faster than float32 on CPUs that can (AVX512_BF16)?
FAST_BFLOAT16 = jax.__version_info__ >= (0, 11)


def without_dead_code(jaxpr: core.Jaxpr) -> core.Jaxpr:
    """The jaxpr without equations whose results nothing needs."""
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)[0]


def inner_jaxprs(eqn: core.JaxprEqn) -> Iterator[Any]:
    """The jaxprs that one equation runs, whatever its parameters are called."""
    for value in jax.tree.leaves(tuple(eqn.params.values()), is_leaf=_is_jaxpr):
        if _is_jaxpr(value):
            yield getattr(value, "jaxpr", value)


def _is_jaxpr(value):
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)
