"""The encoder-decoder: who sees whom, the same on every mesh, and what its FLOPs are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import counting, flops, models, objectives
from moe.attention_config import AttentionConfig
from moe.batch import Batch, Inputs
from moe.models import encoder_decoder
from moe.objectives import span_corruption
from tests import tiny

B, T, U = 8, 6, 9
T5 = encoder_decoder.EncoderDecoderConfig


def config(**changes):
    """Two layers a side, the second MoE, with room for all unless a test says else."""
    own = {"experts": tiny.moe_config(capacity_factor=4.0, eval_capacity_factor=4.0)} | changes
    plain = vars(tiny.model()) | own
    for name in ("position", "attention", "scale_embedding"):
        plain[name] = own.get(name, getattr(T5, name))
    return T5(**plain)


def batch(seed=0):
    """Rows of one document; every second one has a second, and padding."""
    rng = np.random.default_rng(seed)

    def part(length):
        ids = rng.integers(1, tiny.V, (B, length))
        segment = np.ones((B, length), np.int64)
        segment[1::2, length // 2 :] = 2
        segment[1::2, -1] = 0
        return ids, segment, np.broadcast_to(np.arange(length), (B, length))

    (tokens, segment, position), read = part(T), part(U)
    targets = rng.integers(1, tiny.V, (B, T))
    made = Batch(tokens, targets, segment, position, encoder=Inputs(*read))
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.int32), made)


def logits(config, params, given):
    model = models.build(config)
    state = jax.tree.map(jnp.asarray, model.router_state())
    out = model.apply(params, state, given, key=jax.random.key(0), train=False)
    return out.logits


@functools.cache
def compiled(config):
    return jax.jit(functools.partial(logits, config))


@functools.cache
def params(config):
    return tiny.params(config)


def changed_by(config, given, where, b, u):
    """Which logits another token there changes, [B, T]."""
    other = given._replace(encoder=given.encoder) if where == "decoder" else given
    tokens = other.tokens_BT if where == "decoder" else other.encoder.tokens_BU
    tokens = tokens.at[b, u].set(tokens[b, u] % (tiny.V - 1) + 1)
    if where == "decoder":
        other = other._replace(tokens_BT=tokens)
    else:
        other = other._replace(encoder=other.encoder._replace(tokens_BU=tokens))
    before, after = (compiled(config)(params(config), x) for x in (given, other))
    return np.asarray(before != after).any(-1)


@pytest.mark.parametrize("experts", ["dense", "crowded"])
def test_who_sees_whom(experts):
    """The decoder its past, everybody all inputs of the document; also where slots are few."""
    crowded = tiny.moe_config(capacity_factor=0.5, eval_capacity_factor=0.5)
    c = config(experts=None if experts == "dense" else crowded)
    given = batch()
    segment = np.asarray(given.segment_BT)
    for b, t in [(0, 0), (0, 3), (1, 0), (1, 3)]:
        seen = np.zeros((B, T), bool)
        seen[b] = (np.arange(T) >= t) & (segment[b] == segment[b, t])
        found = changed_by(c, given, "decoder", b, t)
        assert not (found & ~seen).any() if experts == "crowded" else (found == seen).all(), (b, t)
    read = np.asarray(given.encoder.segment_BU)
    for b, u in [(0, 8), (1, 0), (1, 5)]:
        seen = np.zeros((B, T), bool)
        seen[b] = segment[b] == read[b, u]
        found = changed_by(c, given, "encoder", b, u)
        if experts == "dense":
            assert (found == seen).all(), (b, u)
        assert not found[np.arange(B) != b].any() and (found & seen).any()


def test_padding_changes_nothing():
    c = config()
    given = batch()
    at = np.asarray(given.encoder.segment_BU) == 0
    tokens = jnp.where(at, 7, given.encoder.tokens_BU)
    other = given._replace(encoder=given.encoder._replace(tokens_BU=tokens))
    real = np.asarray(given.segment_BT > 0)
    one, two = (np.asarray(compiled(c)(params(c), x)) for x in (given, other))
    np.testing.assert_array_equal(one[real], two[real])


def test_one_expert_is_the_dense_model():
    one = config(experts=tiny.moe_config(num_experts=1, d_ff=16, capacity_factor=1.0))
    dense = config(experts=None)
    sparse = params(one)

    def unpacked(stack):
        block = dict(stack["block"])
        moe = dict(block["layer_1"])
        ffn = jax.tree.map(lambda x: x[:, 0], moe.pop("moe")["experts"])
        return stack | {"block": block | {"layer_1": moe | {"ffn": ffn}}}

    same = sparse | {name: unpacked(sparse[name]) for name in ("encoder", "decoder")}
    real = np.asarray(batch().segment_BT > 0)  # experts leave padding as it is
    got, want = (
        np.asarray(x) for x in (compiled(dense)(same, batch()), compiled(one)(sparse, batch()))
    )
    tiny.assert_close(got[real], want[real], rtol=1e-4, atol=1e-5)


def value_and_grad(c, mesh, accumulate=1):
    with tiny.on(mesh):
        task = objectives.task(c)
        weights = tiny.params(c)

        def run(weights, given, key):
            return tiny.gradients.value_and_grad(
                task, weights, tiny.routing_state(c), given, key, accumulate
            )

        (loss, _), grads = jax.jit(run)(weights, tiny.put(batch()), jax.random.key(0))
        return tiny.host((loss, grads))


@pytest.fixture(scope="module")
def alone():
    return value_and_grad(stateful(), "none")


def stateful():
    """A layer a side."""
    room = {"capacity_factor": 4.0, "eval_capacity_factor": 4.0}
    experts = tiny.moe_config(router="sigmoid", k=2, **room)
    return config(num_layers=1, moe_every=1, experts=experts)


def test_the_same_loss_and_gradients_on_a_mesh(alone):
    """Of all three axes."""
    tiny.assert_close(value_and_grad(stateful(), "2x2x2"), alone, 1e-4, 1e-5)


def test_micro_batches_are_the_batch(alone):
    got = value_and_grad(stateful(), "none", accumulate=2)
    tiny.assert_close(got, alone, 1e-4, 1e-5)


def test_slots_by_probability_are_for_the_encoder_alone():
    c = config(encoder_batch_priority=True)
    assert c.stacks["encoder"].experts.options.batch_priority
    assert not c.stacks["decoder"].experts.options.batch_priority
    with pytest.raises(ValueError, match="not causal"):
        options = dataclasses.replace(c.experts.options, batch_priority=True)
        config(experts=dataclasses.replace(c.experts, options=options))


@pytest.mark.parametrize("experts", [None, tiny.moe_config(capacity_factor=1.0)])
def test_ideal_flops_are_those_that_are_executed(experts):
    """But for attention, whose causal blocks compute a little more, and what routers cost."""
    c = config(experts=experts, d_ff=16)
    length = 512
    task = objectives.task(c)
    executed = flops.executed(c, 1, length)
    ideal = {part: value * length for part, value in task.ideal_flops(length).items()}
    assert executed.products["dense_ffn"] == pytest.approx(ideal["dense_ffn"])
    assert executed.products["head"] == pytest.approx(ideal["head"])
    if experts:
        assert executed.products["experts"] == pytest.approx(ideal["experts"], rel=0.02)
    over = executed.products["attention"] / ideal["attention"]
    assert 1 <= over < 1.05
    assert set(executed.products) <= set(counting.PARTS)


def test_a_span_costs_what_its_options_say():
    """More noise, more for the decoder to do."""
    tasks = [
        objectives.task(config(), objectives.ObjectiveConfig(
            name="span_corruption", options=span_corruption.Options(share=share)))
        for share in (0.15, 0.5)
    ]  # fmt: skip
    one, two = (task.ideal_flops(512)["head"] for task in tasks)
    assert two / one == pytest.approx((256 + 85 + 1) / (77 + 26 + 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"causal": False}, "a decoder sees its past"),
        ({"mask_embedding": True}, "for models of one stack"),
        *(
            ({"experts": tiny.moe_config(router=router)}, "one reward or domain for each token")
            for router in ("reinforce", "domain", "rre")
        ),
        ({"experts": None, "encoder_batch_priority": True}, "needs a router with the option"),
    ],
)
def test_what_has_no_meaning_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_initial_weights_make_up_for_what_is_not_scaled():
    """Initial queries are smaller by sqrt(H), embeddings larger by sqrt(D): T5's initializer."""
    sizes = {"d_model": 64, "d_head": 16, "num_layers": 1, "moe_every": 1, "experts": None}
    plain, scaled = (
        jax.jit(functools.partial(models.init, config(**sizes, **changes)))(jax.random.key(0))
        for changes in ({}, {"attention": AttentionConfig(), "scale_embedding": True})
    )
    queries = [p["decoder"]["block"]["layer_0"]["cross"]["w_q"] for p in (plain, scaled)]
    tiny.assert_close(queries[0] * 4, queries[1])
    tiny.assert_close(plain["embed"], scaled["embed"] * 8)
    assert float(plain["embed"].std()) == pytest.approx(1.0, rel=0.1)
