"""Properties that hold for whatever comes: texts, configs, choices, scores."""

import functools
import random

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from experiments.soak_parts import draw
from moe import dispatch, schema
from moe.config import MoEConfig
from moe.data import tokenizer
from moe.errors import UserError
from moe.routing import assignment, contract
from moe.training.config import RunConfig

G = 2
S = 6
K = 2
E = 3
C = 2
hypothesis.settings.register_profile("tests", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.load_profile("tests")


@functools.cache
def trained():
    texts = [f"the router sends token {i} to expert {i % 8}; 漢字 🙂" for i in range(99)]
    return tokenizer.train(texts, vocab_size=300, max_bytes=100_000)


@functools.cache
def token_bytes():
    return tokenizer.token_bytes(trained(), 300)


@hypothesis.given(st.text())
def test_any_text_comes_back(text):
    ids = trained().encode(text, add_special_tokens=False).ids
    assert trained().decode(ids, skip_special_tokens=False) == text
    assert token_bytes()[ids].sum() == len(text.encode())


@hypothesis.given(st.integers(0, 2**32))
def test_any_config_is_refused_or_comes_back(seed):
    """What cannot be is a `UserError`; what can is the same after it was written and read."""
    try:
        run = schema.from_config_dict(RunConfig, draw.run(seed))
    except UserError as error:
        assert str(error)
        return
    assert schema.from_config_dict(RunConfig, schema.to_dict(run)) == run


@st.composite
def choices(draw_one):
    """K different experts a token, or nobody."""
    kinds = st.sampled_from([(0, 1), (1, 0), (2, 1), (1, 2), (0, 2), (2, 0), (E, E), (0, E)])
    pairs = draw_one(st.lists(kinds, min_size=G * S, max_size=G * S))
    return np.array(pairs, np.int32).reshape(G, S, K)


@functools.cache
def compiled(name):
    """What experts that multiply by their number + 1 give back, and the slots."""

    def there_and_back(expert_GSK, gate_GSK, x_GSD):
        choice = assignment.TopKAssignment(expert_GSK, gate_GSK)
        slots = assignment.assign_slots(choice, E, C)
        x_GECD = dispatch.SLOTTED[name].dispatch(x_GSD, slots)
        y_GECD = x_GECD * (1 + jnp.arange(E, dtype=jnp.float32))[None, :, None, None]
        return dispatch.SLOTTED[name].combine(y_GECD, slots, S), slots

    return jax.jit(there_and_back)


@hypothesis.given(choices())
def test_slots_are_first_come_first_served(expert_GSK):
    """Nobody sits in two places, none is left out while a slot is free, the first come first."""
    gate_GSK = np.where(expert_GSK < E, 0.5, 0.0).astype(np.float32)
    _, slots = compiled("gather")(expert_GSK, gate_GSK, np.zeros((G, S, 1), np.float32))
    for group, token_EC in zip(expert_GSK, np.asarray(slots.token_GEC), strict=True):
        for expert, token_C in enumerate(token_EC):
            asked = [s for s in range(S) if expert in group[s]]
            assert [s for s in token_C if s < S] == asked[:C]


@hypothesis.given(
    choices(), arrays.arrays(np.float32, (G, S, K), elements=st.floats(0, 1, width=32))
)
def test_dispatchers_agree_on_any_choices(expert_GSK, gate_GSK):
    gate_GSK = np.where(expert_GSK < E, gate_GSK, 0)
    x_GSD = np.arange(1, 1 + G * S, dtype=np.float32).reshape(G, S, 1)
    want = compiled("oracle")(expert_GSK, gate_GSK, x_GSD)[0]
    for name in ("gather", "einsum"):
        got = compiled(name)(expert_GSK, gate_GSK, x_GSD)[0]
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-30)


ROUTERS = ("top_k", "sigmoid", "gshard", "top_p", "noisy_top_k")


@functools.cache
def routed(name):
    """logits_GSE -> the choices of a router, in evaluation."""
    config = MoEConfig(num_experts=E, d_ff=8, k=K, router=name, group_size=S)
    settings = contract.RouterSettings(E, K, S, False, config.options)

    def route(logits_GSE):
        projections = config.routing.projections(config)
        logits = {matrix: logits_GSE for matrix in projections}
        state = {"bias": jnp.zeros(E), "mass": jnp.float32(0.4)}
        mask_GS = jnp.ones((G, S), bool)
        inputs = contract.RouterInputs(
            logits=logits, mask_GS=mask_GS, key=jax.random.key(0), state=state
        )
        return config.routing.route(inputs, settings).assignment

    return jax.jit(route)


@pytest.mark.parametrize("name", ROUTERS)
@hypothesis.given(
    arrays.arrays(np.float32, (G, S, E), elements=st.floats(-(2.0**13), 2.0**13, width=32))
)
def test_routers_choose_different_experts_with_finite_gates(name, logits_GSE):
    choice = routed(name)(logits_GSE)
    expert_GSK, gate_GSK = (np.asarray(x) for x in choice)
    assert ((expert_GSK >= 0) & (expert_GSK <= E)).all()
    for pair in expert_GSK.reshape(-1, K):
        real = pair[pair < E]
        assert len(set(real)) == len(real) >= 1
    assert np.isfinite(gate_GSK).all() and (gate_GSK >= 0).all()
    assert (gate_GSK.sum(-1) <= 1 + 1e-5).all() and (gate_GSK.sum(-1) > 0).all()


def test_most_random_configs_train_or_say_why():
    """The search of `experiments.soak` draws both kinds."""
    outcomes = {True: 0, False: 0}
    for seed in range(100):
        try:
            schema.from_config_dict(RunConfig, draw.run(seed))
            outcomes[True] += 1
        except UserError:
            outcomes[False] += 1
    assert min(outcomes.values()) >= 20, outcomes
    assert draw.experts(random.Random(1)) == draw.experts(random.Random(1))
