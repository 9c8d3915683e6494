"""Statistics that layers sow reach the loss, from every layer."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from moe import objectives
from moe.models import contract, decoder
from moe.objectives import next_token
from moe.training import gradients
from tests import tiny
from tests.training.test_loss import E, forward


class Silent(nn.Module):
    """A network that claims experts but tells nothing of them."""

    config: object

    @nn.compact
    def __call__(self, tokens_BT, segment_BT, position_BT, train, domain_BT):
        return jnp.zeros((*tokens_BT.shape, tiny.V)) + self.param("w", nn.initializers.zeros, ())


def task_of(network):
    """The next-token task of any network."""
    model = contract.of_network(network.config, network, lambda length: {})
    forward = functools.partial(next_token.forward, model, None)
    return objectives.contract.Task(model, forward)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_sparse_model_without_a_stats_is_an_error(accumulate):
    network = Silent(tiny.model())
    with pytest.raises(ValueError, match="config.experts=MoEConfig.* but the network sowed None"):
        gradients.value_and_grad(
            task_of(network), {"w": jnp.zeros(())}, {}, tiny.inputs(), jax.random.key(0), accumulate
        )


class Wrapped(nn.Module):
    """As many sparse decoders as there are names, under a config of its own."""

    config: object
    names: tuple

    @nn.compact
    def __call__(self, *inputs):
        return sum(decoder.Decoder(tiny.model(), name=name)(*inputs) for name in self.names)


def test_statistics_that_nobody_reads_are_an_error():
    network = Wrapped(tiny.model(experts=None), ("one",))
    params = {"one": tiny.params(tiny.model())}
    forward = task_of(network).forward
    with pytest.raises(ValueError, match="config.experts=None but the network sowed"):
        jax.eval_shape(lambda p: forward(p, {}, tiny.inputs(), jax.random.key(0), True), params)


def test_the_layers_of_several_stacks_are_stacked():
    """A network of two decoders, as an encoder and a decoder, has the layers of both."""
    network = Wrapped(tiny.model(), ("one", "two"))
    params = dict.fromkeys(network.names, tiny.params(tiny.model()))
    forward = task_of(network).forward
    found = jax.eval_shape(lambda p: forward(p, {}, tiny.inputs(), jax.random.key(0), True), params)
    assert found.sums.router_stats.chosen_KE.shape == (2, 1, E)


def test_every_moe_layer_counts():
    """Four sparse layers: the router_stats are stacked, and each has its own routing."""
    config = tiny.model(moe_every=1, num_layers=4)
    sums, _ = jax.eval_shape(forward(config), tiny.params(config), tiny.inputs())
    assert sums.router_stats.chosen_KE.shape == (4, 1, E) and sums.router_stats.z.shape == (4,)
