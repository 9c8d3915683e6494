"""Low-rank changes of weights (Hu et al. 2021, "LoRA"): W + alpha / r A B, of which A and B train.

They lie beside the model's parameters under "lora", each at the path of its weight; B starts at
zero. The model computes with the sum, so nothing in it knows of them, and `merged` makes a plain
model at any time. (The provider of qwix 0.1.8 sets attributes of Linen modules while they are
frozen, which Flax refuses.)
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from moe import models, paths, ranges, schema, sharding
from moe.config import ModelConfig
from moe.models.contract import LORA, Model

FROZEN = (rf"(?!{LORA}/).*",)
# How many of a weight's last axes are inputs, and outputs; those before count layers and experts.
AXES = {
    **dict.fromkeys(("w_q", "w_k", "w_v"), (1, 2)),
    "w_o": (2, 1),
    **dict.fromkeys(("w_in", "w_gate", "w_out", "router"), (1, 1)),
}


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which weights change, and how much they can."""

    rank: int = 0  # r; 0: no weight has such a change
    alpha: float = 16.0
    weights: tuple[str, ...] = (r".*/(attention|cross)/w_.*",)  # patterns, see `moe.paths`

    def __post_init__(self) -> None:
        ranges.check(self, "lora", ranges.LORA)
        for pattern in self.weights:
            paths.check(pattern, "lora.weights")
        default = LoraConfig.__dataclass_fields__["weights"].default
        for name, usual in (("alpha", 16.0), ("weights", default)):
            schema.require(
                self.rank > 0 or getattr(self, name) == usual,
                f"lora.{name} does nothing with lora.rank=0: set a rank, or leave it out",
            )


def around(model: Model, config: LoraConfig) -> Model:
    """The model whose parameters have A and B beside them."""
    if not config.rank:
        return model
    scale = config.alpha / config.rank

    def init(key: jax.Array) -> dict:
        params = model.init(key)
        return params | {LORA: drawn(params, config, jax.random.fold_in(key, 2))}

    def apply(params: dict, *given: Any, **how: Any) -> Any:
        return model.apply(merged(params, scale), *given, **how)

    return model._replace(init=init, apply=apply)


def drawn(params: dict, config: LoraConfig, key: jax.Array) -> dict:
    """A and B of every weight that the patterns match: A He-uniform, B zero.

    Raises:
      UserError: for a pattern that matches nothing, or something that is no weight of a product.
    """
    named = paths.named(params)
    paths.check_used(config.weights, named, "lora.weights")
    chosen = [path for path in named if paths.matches(config.weights, path)]
    wrong = [path for path in chosen if path.rpartition("/")[2] not in AXES]
    schema.require(
        not wrong, f"lora.weights matches {', '.join(wrong)}, no weights of a product: leave it out"
    )
    found: dict = {}
    for number, path in enumerate(sorted(chosen)):
        own = jax.random.fold_in(key, number)
        pair = _pair(named[path], path.rpartition("/")[2], config.rank, own)
        found = _put(found, path.split("/"), pair)
    return found


def _put(tree, path, value):
    first, *rest = path
    return tree | {first: _put(tree.get(first, {}), rest, value) if rest else value}


def _pair(w, name, rank, key):
    """{"a": [..., in, r], "b": [..., r, out]}, laid out as the weight is."""
    first, last = _cut(w.ndim, name)
    spec = (*sharding.layout(w), *[None] * w.ndim)[: w.ndim]
    outs, ins = w.shape[last:], w.shape[first:last]
    limit = math.sqrt(6 / math.prod(ins))
    of_a, of_b = P(*spec[:last], None), P(*spec[:first], None, *spec[last:])
    a = limit * jax.random.uniform(key, (*w.shape[:last], rank), jnp.float32, -1.0, 1.0)
    b = jnp.zeros((*w.shape[:first], rank, *outs), jnp.float32)
    if not sharding.current():
        return {"a": a, "b": b}
    return {"a": jax.sharding.reshard(a, of_a), "b": jax.sharding.reshard(b, of_b)}


def _cut(axes, name):
    """Where inputs and outputs begin."""
    ins, outs = AXES[name]
    return axes - ins - outs, axes - outs


def merged(params: dict, scale: float) -> dict:
    """The plain parameters that such parameters stand for.

    Args:
      params: of a model of `around`.
      scale: alpha / r.
    """
    plain = {name: part for name, part in params.items() if name != LORA}
    return _merged(plain, params[LORA], scale)


def _merged(tree, pairs, scale):
    return {
        name: _merged_part(name, part, pairs[name], scale) if name in pairs else part
        for name, part in tree.items()
    }


def _merged_part(name, part, pair, scale):
    if isinstance(part, dict):
        return _merged(part, pair, scale)
    first, last = _cut(part.ndim, name)
    letters = "abcdefgh"[: part.ndim]
    product = f"{letters[:last]}r,{letters[:first]}r{letters[last:]}->{letters}"
    where = sharding.layout(part) if sharding.current() else None
    change = jnp.einsum(product, pair["a"], pair["b"], out_sharding=where)
    return part + (scale * change).astype(part.dtype)


def plain(config: LoraConfig, params: dict) -> dict:
    """The parameters of the model itself, whether it has such changes or not."""
    return merged(params, config.alpha / config.rank) if config.rank else params


def trained(model: ModelConfig, config: LoraConfig) -> int:
    """How many numbers A and B have."""
    shapes = models.parameter_shapes(model)
    pairs = jax.eval_shape(lambda p: drawn(p, config, jax.random.key(0)), shapes)
    return sum(x.size for x in jax.tree.leaves(pairs))
