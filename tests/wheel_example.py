"""What a stranger does first with the installed package: experts in a model of their own.

tests/test_wheel.py runs it from an empty folder, with nothing of the checkout importable.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import moe
from moe import dispatch, routing
from moe.routing import assignment


class Block(nn.Module):
    """A layer of somebody else's model."""

    @nn.compact
    def __call__(self, x_BTD):
        experts = moe.MoEConfig(num_experts=4, d_ff=16, k=2)
        return x_BTD + moe.MoELayer(experts, activation="swiglu")(x_BTD)


x_BTD = jax.random.normal(jax.random.key(2), (2, 16, 8))
variables = Block().init(jax.random.key(3), x_BTD)
y_BTD, sown = Block().apply({"params": variables["params"]}, x_BTD, mutable=["router"])
record = moe.collect(sown)
assert y_BTD.shape == x_BTD.shape
assert record.stats.tokens.tolist() == [32.0], "one MoE layer, 32 tokens"
assert moe.ROUTERS.keys() >= {"top_k", "expert_choice"} and "gather" in moe.DISPATCHERS

G = 2  # slots for every token: nothing is dropped
S = 16
D = 8
E = 4
K = 2
C = 16

x_GSD = jax.random.normal(jax.random.key(0), (G, S, D))
logits_GSE = jax.random.normal(jax.random.key(1), (G, S, E))
mask_GS = jnp.ones((G, S), bool)

routed = routing.route("top_k", logits_GSE, mask_GS, K)
choice = routed.assignment
assert choice.expert_GSK.shape == (G, S, K)
np.testing.assert_allclose(choice.gate_GSK.sum(-1), 1.0, rtol=1e-6)

# Experts that do nothing: a token comes back weighted by its gates, which sum to 1.
slots = assignment.assign_slots(choice, E, C)
for name, dispatcher in dispatch.SLOTTED.items():
    x_GECD = dispatcher.dispatch(x_GSD, slots)
    assert x_GECD.shape == (G, E, C, D), name
    y_GSD = dispatcher.combine(x_GECD, slots, tokens=S)
    np.testing.assert_allclose(y_GSD, x_GSD, rtol=1e-5, atol=1e-6, err_msg=name)

print(f"{len(dispatch.SLOTTED)} dispatchers agree on {jax.default_backend()}")
