"""Both ends of a language model on a mesh whose 'model' axis shares the vocabulary.

A device holds some rows of the embedding [V, D] and the same columns of the logits [B, T, V];
neither is gathered along V (ZeRO gathers the table along D) (Shoeybi et al. 2019, section 3).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from moe import matmul, sharding


class Head(NamedTuple):
    """The last product of a language model, left to whoever reads it."""

    x_BTD: jax.Array
    w_VD: jax.Array

    def logits(self) -> jax.Array:
        """logits_BTV, float32."""
        with jax.named_scope("head"):
            return matmul.einsum("BTD,VD->BTV", *self, float32=True)


def look_up(embed_VD: jax.Array, tokens_BT: jax.Array) -> jax.Array:
    """x_BTD: the rows of the tokens. Each device looks up those it has, and the sum is the row."""
    if sharding.num_devices(("model",)) == 1:
        return embed_VD.at[tokens_BT].get(out_sharding=sharding.out_sharding("BTD"))

    def local(embed_vD: jax.Array, tokens_bT: jax.Array) -> jax.Array:
        v = embed_vD.shape[0]
        row_bT = tokens_bT - jax.lax.axis_index("model") * v
        mine_bT = (row_bT >= 0) & (row_bT < v)
        x_bTD = jnp.where(mine_bT[..., None], embed_vD[jnp.where(mine_bT, row_bT, 0)], 0)
        return jax.lax.psum(x_bTD, "model")

    return sharding.shard_mapped(local, ("VD", "BT"), "BTD")(embed_VD, tokens_BT)


def pick(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """The logit of each target, [B, T]; a sum over V that is 0 but for one."""
    return jnp.where(hit(targets_BT, logits_BTV.shape[-1]), logits_BTV, 0).sum(-1)


def hit(targets_BT: jax.Array, V: int) -> jax.Array:
    """Is it the target, [B, T, V]? Or [..., V], whatever axes targets have."""
    axes = targets_BT.ndim
    return targets_BT[..., None] == jax.lax.broadcasted_iota(jnp.int32, (1,) * axes + (V,), axes)
