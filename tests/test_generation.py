"""Decoding with a cache is the forward pass, token by token, and reads no more than it must."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import decoding, generation, routing, sampling, sharding
from moe.attention_config import AttentionConfig
from moe.data import batches
from tests import tiny
from tests.routing.cases import CASES

PROMPTS = [[3, 1, 0, 1, 5], [9, 2], [6]]  # 0 starts a document
STEPS = 4
ONE_LAYER = {"num_layers": 1, "moe_every": 1}
MODELS = {
    "dense, relative positions": {"experts": None, "position": "relative", "tie_embeddings": False},
    "experts after a dense layer, shared heads": {
        "num_layers": 3, "moe_every": 1, "num_dense_layers": 1, "num_kv_heads": 1,
        "experts": tiny.moe_config(k=2, shared_experts=1),
    },
    "few of many experts": ONE_LAYER | {
        "experts": tiny.moe_config(
            num_experts=16, k=2, group_size=64, options=routing.ranked.Options(reroute_rounds=2)
        )
    },
    "ids": ONE_LAYER | {"experts": tiny.moe_config(router="hash")},
    "pools so far": ONE_LAYER | {
        "experts": tiny.moe_config(
            router="emo", num_experts=8, k=2,
            options=routing.emo.Options(pool="running", least=3, most=3),
        )
    },
    "n-grams": ONE_LAYER | {"experts": None, "ngram_rows": 16},
    "attention as published": ONE_LAYER | {
        "num_kv_heads": 1, "scale_embedding": False, "norm_epsilon": 1e-5,
        "attention": AttentionConfig(
            qkv_bias=True, qk_norm="width", clip_qkv=2.0, rope_theta=1e6, rope_layout="pairs",
            window=3,
        ),
        "experts": tiny.moe_config(k=2, options=routing.ranked.Options(normalise_gates=False)),
    },
}  # fmt: skip
EXPERTS = "experts after a dense layer, shared heads"
DENSE = "dense, relative positions"
HOT = sampling.Sampling(temperature=3.0)


def model(name):
    return tiny.model(**MODELS[name])


@functools.cache
def trained(config):
    return tiny.params(config), tiny.routing_state(config)


def weights(config):
    return decoding.prepare(config, *trained(config))


def forward(config, rows):
    """The Output for rows of text, by the scanned model that is trained."""
    batch = tiny.Batch(rows, rows, *batches.number(rows))
    return tiny.output(config, *trained(config), batch)


def by_forward_passes(config, prompt, steps):
    """The most probable continuation, and the logits it was chosen by; padded to one shape."""
    tokens = list(prompt)
    chosen = []
    for _ in range(steps):
        row = np.zeros((1, len(PROMPTS[0]) + STEPS), np.int32)
        row[0, : len(tokens)] = tokens
        chosen.append(forward(config, row).logits[0, len(tokens) - 1])
        tokens.append(int(chosen[-1].argmax()))
    return tokens[len(prompt) :], np.array(chosen)


@pytest.mark.parametrize("name", MODELS)
def test_as_many_forward_passes(name):
    """Prompts of different lengths together, each as if it were alone."""
    config = model(name)
    got = generation.generate(config, weights(config), PROMPTS, STEPS)
    without_drops = decoding.dropless(config)
    for prompt, tokens in zip(PROMPTS, got, strict=True):
        assert tokens.tolist() == by_forward_passes(without_drops, prompt, STEPS)[0]


@pytest.mark.parametrize("name", [DENSE, EXPERTS, "n-grams"])
def test_on_a_mesh_as_on_one_device(name):
    """Rows and experts are spread; no buffer between devices is too small."""
    config = model(name)
    want = generation.written(config, weights(config), PROMPTS, STEPS)
    with tiny.on("2x4x1"):
        there = decoding.prepare(config, tiny.params(config), tiny.routing_state(config))
        got = generation.written(config, there, PROMPTS, STEPS)
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_array_equal(got.experts, want.experts)


CAPACITY = tiny.moe_config(k=2, capacity_factor=1.0, eval_capacity_factor=0.5)


@pytest.mark.parametrize("mesh", ["none", "2x4x1"])
def test_under_capacity_too(mesh):
    """Token by token the same are dropped as in a whole row, in which no later one takes a slot."""
    config = tiny.model(experts=CAPACITY, moe_every=1)
    rows, T = np.random.default_rng(0).integers(1, tiny.V, (8, 9), np.int32), 9
    whole = forward(config, rows)
    assert whole.router_stats.kept_KE.sum() < 0.8 * whole.router_stats.chosen_KE.sum()
    seated = decoding.dropless(config, T)
    with tiny.on(mesh):
        there = decoding.prepare(config, tiny.params(config), tiny.routing_state(config))
        begun = sharding.shard_batch(rows[:, :3])
        now = decoding.prefill(seated, there, begun, jax.random.key(0), T)
        for t in range(3, T):
            tiny.assert_close(now.logits_BV, whole.logits[:, t - 1], rtol=1e-3, atol=1e-4)
            now = decoding.advance(seated, there, now, sharding.shard_batch(rows[:, t]))
        tiny.assert_close(now.logits_BV, whole.logits[:, -1], rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="model with experts.group_size=0 drops while it"):
        decoding.dropless(tiny.sparse(group_size=16), 8)
    with pytest.raises(ValueError, match="reroute_rounds gives slots in another order"):
        decoding.dropless(tiny.sparse(options=routing.ranked.Options(reroute_rounds=1)), 8)
    with pytest.raises(ValueError, match="a row of 5 tokens has no room for 6: raise row"):
        generation.generate(config, weights(config), [[1, 2, 3]], 3, row=5)


@pytest.mark.parametrize("name", [EXPERTS, "pools so far"])
def test_logits_are_those_of_the_forward_pass(name):
    """Of prompts of different lengths together."""
    config, state = generation.begin(model(name), weights(model(name)), PROMPTS, STEPS)
    alone = [by_forward_passes(config, prompt, STEPS) for prompt in PROMPTS]
    for i in range(STEPS):
        for b, (_, want) in enumerate(alone):
            tiny.assert_close(state.logits_BV[b], want[i], rtol=1e-4, atol=1e-5)
        token_B = jnp.array([tokens[i] for tokens, _ in alone])
        state = decoding.advance(config, weights(config), state, token_B)
    assert state.at == len(PROMPTS[0]) + STEPS


def test_one_token_reads_the_weights_of_its_own_experts_only():
    """The others are not numbers, and the program holds no copy of all of them."""
    config = decoding.dropless(model("few of many experts"))
    start = decoding.prefill(config, weights(config), jnp.array([[3, 1]]), jax.random.key(0), 8)
    token_B = jnp.array([4])
    lowered = decoding.advance.lower(config, weights(config), start, token_B)
    step = lowered.compile()
    want = decoding.advance(config, weights(config), jax.tree.map(jnp.copy, start), token_B)
    finite = 0
    for e in range(16):  # spoil one expert after the other
        spoilt = jax.tree_util.tree_map_with_path(
            lambda path, w: w.at[e].set(jnp.nan) if "experts" in str(path) else w,  # noqa: B023
            weights(config),
        )
        got = step(spoilt, jax.tree.map(jnp.copy, start), token_B)
        if np.isfinite(got.logits_BV).all():
            finite += 1
            tiny.assert_close(got.logits_BV, want.logits_BV)
    assert finite == 14
    whole = "f32[16,8,8]"
    made = [line for line in step.as_text().splitlines() if f" = {whole}" in line]
    assert made and all(" parameter(" in x or " get-tuple-element(" in x for x in made)


def test_a_stream_is_the_same_token_by_token():
    config = model(EXPERTS)
    whole = generation.generate(config, weights(config), PROMPTS, STEPS, how=HOT, seed=3)
    parts = generation.stream(config, weights(config), PROMPTS, STEPS, how=HOT, seed=3)
    np.testing.assert_array_equal(np.stack(list(parts), axis=1), whole)


def test_experts_of_new_tokens_are_those_of_the_forward_pass():
    config = model(EXPERTS)
    found = generation.written(config, weights(config), PROMPTS, STEPS)
    row = np.array([PROMPTS[0] + found.tokens[0].tolist()], np.int32)
    output = forward(decoding.dropless(config), row)
    want_LTK = output.choices.reshape(found.experts.shape[0], -1, 2)[:, -STEPS:]
    np.testing.assert_array_equal(found.experts[:, 0], want_LTK)
    assert generation.written(model(DENSE), weights(model(DENSE)), PROMPTS, STEPS).experts is None


def test_what_is_drawn_follows_the_seed_and_the_temperature():
    config = model(EXPERTS)
    same = [PROMPTS[0]] * 3
    sample = functools.partial(generation.generate, config, weights(config), same, STEPS)
    cold = sample()
    hot = sample(how=HOT)
    assert (cold == cold[0]).all() and len({tuple(row) for row in hot}) == 3
    np.testing.assert_array_equal(hot, sample(how=HOT))
    assert (hot != sample(how=HOT, seed=1)).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"causal": False}, "causal=False reads later tokens"),
        (
            {"allow_noncausal": True, "experts": tiny.moe_config(router="expert_choice")},
            "'expert_choice' look",
        ),
    ],
)
def test_models_that_read_later_tokens_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        generation.generate(tiny.model(**changes), None, PROMPTS, 1)


IDLE_AFTER = {  # without capacity some of it does nothing, which would be refused of a user
    "one of a limited choice that moves on": {
        "k": 1, "options": routing.ranked.Options(reroute_rounds=2, expert_groups=4, groups_used=2),
    },
    "two by sigmoid": {
        "router": "sigmoid", "k": 2,
        "options": routing.sigmoid.Options(reroute_rounds=1, expert_groups=4, groups_used=2),
    },
    "in groups, with dropout": {"group_size": 9, "expert_dropout": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("name", IDLE_AFTER)
def test_what_trains_generates(name):
    """Greedily what a forward pass with room for all says."""
    room = {"capacity_factor": 4.0, "eval_capacity_factor": 4.0}
    config = tiny.model(**ONE_LAYER, experts=tiny.moe_config(**room | IDLE_AFTER[name]))
    prompt = PROMPTS[0]
    params = weights(config)
    got = generation.generate(config, params, [prompt], STEPS)
    want, _ = by_forward_passes(config, prompt, STEPS)
    assert got[0].tolist() == want


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.experts.causal == "always"])
def test_every_causal_router_has_a_config_to_generate_with(name):
    model = decoding.dropless(CASES[name])
    assert decoding.dropless(model) == model and model.experts.dropless
    assert hash(model) == hash(dataclasses.replace(model))


def test_what_makes_no_sense_is_refused():
    for wrong in ([], [[1], []]):
        with pytest.raises(ValueError, match="prompts of at least one token each"):
            generation.generate(model(DENSE), None, wrong, 3)
    with pytest.raises(ValueError, match="expected steps above 0"):
        generation.generate(model(DENSE), None, [[1]], 0)
    with pytest.raises(ValueError, match="this model has none"):
        generation.generate(model(DENSE), None, [[1]], 1, inputs=[[1]])
    for ids in ([3, -1, 5], [tiny.model().vocab_size]):
        with pytest.raises(ValueError, match="expected token ids from 0 to"):
            generation.generate(model(DENSE), None, [ids], 3)
    with pytest.raises(ValueError, match="'domain' reads domains: give domain_B"):
        generation.generate(tiny.model(experts=tiny.moe_config(router="domain")), None, PROMPTS, 1)


def test_another_token_may_start_a_document():
    """The prompt's segments and positions are those of a training row with the same separator."""
    config = model(DENSE)
    row = np.array([[5, 3, 1, 5, 2]])
    state = decoding.prefill(config, weights(config), jnp.array(row), jax.random.key(0), 8, None, 5)
    segment_BT, position_BT = batches.number(row, 5)
    np.testing.assert_array_equal(state.segment_BU[:, :5], segment_BT)
    assert state.position_B.tolist() == [position_BT[0, -1] + 1] and segment_BT.max() == 2
    after = decoding.advance(config, weights(config), state, jnp.array([5]))
    assert after.segment_BU[0, 5] == 3 and after.position_B.tolist() == [1]


def test_seeds_have_a_range():
    with pytest.raises(ValueError, match="seed=4294967296 must be at least 0 and below 4294967296"):
        generation.generate(model(DENSE), weights(model(DENSE)), PROMPTS, 1, seed=2**32)
