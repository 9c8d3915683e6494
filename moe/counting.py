"""Counts the FLOPs of any JAX function from its jaxpr, part by part.

XLA's `cost_analysis` counts the body of a scan once, whatever its length; a jaxpr says how often it
runs. A matrix product of [m, k] by [k, n] is 2 m k n FLOPs, an elementwise operation one a result,
a reduction one an input; copies, gathers and conversions are none. Parts are the
`jax.named_scope`s in which an operation was written; its gradient keeps the name.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from moe import compat
from moe.errors import UserError

PARTS = ("embed", "attention", "dense_ffn", "experts", "router", "dispatch", "head")

PRODUCTS = ("dot_general", "conv_general_dilated")

AS_NEEDED = "as_needed"  # the scope of loops whose turns data decide, and statistics tell

FREE = {
    *("all_to_all", "axis_index", "broadcast_in_dim", "concatenate", "convert_element_type"),
    *("copy", "copy_p", "dynamic_slice", "dynamic_update_slice", "expand_dims", "gather", "iota"),
    *("pad", "pbroadcast", "pvary", "reshape", "reshard", "rev", "select_n", "slice", "split"),
    *("sharding_constraint", "squeeze", "stop_gradient", "transpose"),
}  # primitives that move data


KERNELS = (
    *("pallas_call", "custom_call", "ffi_call"),
    *("dot_product_attention_fwd_wrapper", "dot_product_attention_bwd_wrapper"),  # cuDNN's
)

UNKNOWN = {
    "while": "the number of its turns is not in the program; use scan or fori_loop",
    **dict.fromkeys(KERNELS, "what a kernel does is not in it"),
    **dict.fromkeys(
        ("ragged_dot", "ragged_dot_general", "triangular_solve", "cholesky", "fft"),
        "it is a product without a rule here; add one to `_cost`",
    ),
}  # primitives that must not be counted wrong in silence: name -> why, and what to do


class Flops(NamedTuple):
    """FLOPs of one call by part; "other" is outside every part."""

    products: Counter[str]  # matrix products
    others: Counter[str]  # elementwise operations, reductions, sorts

    @property
    def total(self) -> int:
        """Matrix products: what papers call FLOPs."""
        return sum(self.products.values())

    @property
    def everything(self) -> int:
        """Matrix products and all the rest."""
        return self.total + sum(self.others.values())


class Product(NamedTuple):
    """A matrix product by its shapes."""

    of: tuple  # (shape, dtype) of both sides
    dimensions: tuple  # as of `lax.dot_general`
    precision: tuple | None
    gives: str  # dtype


def products(fn: Callable, *args: Any) -> Counter[Product]:
    """Every matrix product of fn(*args) and how often it is run, but for those as needed."""
    found: Counter[Product] = Counter()
    for eqn, _, times in _operations(_program(fn, args)):
        if eqn.primitive.name == "dot_general":
            of = tuple((v.aval.shape, str(v.aval.dtype)) for v in eqn.invars)
            gives = str(eqn.outvars[0].aval.dtype)
            how = eqn.params
            found[Product(of, how["dimension_numbers"], how["precision"], gives)] += times
    return found


def count(fn: Callable, *args: Any) -> Flops:
    """The FLOPs of fn(*args), over all devices of the mesh; args may be ShapeDtypeStructs.

    Operations whose results nothing needs are not counted (XLA removes them too).

    Raises:
      UserError: for an operation of `UNKNOWN`, such as a while loop.
    """
    flops = Flops(Counter(), Counter())
    for eqn, scope, times in _operations(_program(fn, args)):
        kind = flops.products if eqn.primitive.name in PRODUCTS else flops.others
        kind[part_of(scope)] += times * _cost(eqn)
    return flops


def _program(fn, args):
    return compat.without_dead_code(jax.make_jaxpr(fn)(*args).jaxpr)


def _operations(jaxpr, outer="", times=1):
    """(equation, scope, how often it is run) of all that compute something."""
    for eqn in jaxpr.eqns:
        scope = f"{outer}/{eqn.source_info.name_stack}"
        name = eqn.primitive.name
        if name == "while" and AS_NEEDED in scope:
            continue
        if name in UNKNOWN:
            raise UserError(f"the FLOPs of a {name} cannot be counted: {UNKNOWN[name]}")
        # A scatter's or reduction's jaxpr says how to combine two numbers: `_cost` knows.
        combines = name.startswith(("scatter", "reduce"))
        inner = [] if combines else list(compat.inner_jaxprs(eqn))
        for sub, repeats in _runs(eqn, inner):
            yield from _operations(sub, scope, times * repeats)
        if not (inner or name in FREE or name.startswith("random_")):
            yield eqn, scope, times


def _runs(eqn, inner):
    """Each inner jaxpr with how often it runs; of a cond, the dearest branch once."""
    if eqn.primitive.name == "cond":
        return [(max(inner, key=_size), 1)]
    if eqn.primitive.name == "scan":
        return [(sub, eqn.params["length"]) for sub in inner]
    if eqn.primitive.name == "shard_map":
        return [(sub, eqn.params["mesh"].size) for sub in inner]
    return [(sub, 1) for sub in inner]


def _size(jaxpr):
    return sum(times * _cost(eqn) for eqn, _, times in _operations(jaxpr))


def part_of(scope: str) -> str:
    """The innermost part named in a name stack such as "transpose(jvp(Decoder))/block/router"."""
    named = [word for word in re.findall(r"\w+", scope) if word in PARTS]
    return named[-1] if named else "other"


def _cost(eqn):
    name = eqn.primitive.name
    results = sum(math.prod(v.aval.shape) for v in eqn.outvars)
    operands = math.prod(eqn.invars[0].aval.shape) if eqn.invars else 0
    if name == "dot_general":
        ((contracting, _), _) = eqn.params["dimension_numbers"]
        return 2 * results * math.prod(eqn.invars[0].aval.shape[i] for i in contracting)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        out_features = eqn.params["dimension_numbers"].rhs_spec[0]
        return 2 * results * math.prod(kernel) // kernel[out_features]
    if name == "sort":
        axis = eqn.invars[0].aval.shape[eqn.params["dimension"]]
        return operands * max(1, math.ceil(math.log2(max(axis, 2))))
    if name.startswith("scatter"):
        return math.prod(eqn.invars[2].aval.shape)  # one a summand
    if name.startswith(("reduce", "arg", "cum", "top_k")):
        return operands
    return results
