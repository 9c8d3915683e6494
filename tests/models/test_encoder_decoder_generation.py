"""Generation by an encoder-decoder: the forward pass token by token, and beams by brute force."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import beams, decoding, generation, models
from moe.batch import Batch
from tests import tiny
from tests.models.test_encoder_decoder import config, params

INPUTS = [[3, 1, 4, 1, 5, 9], [2, 6], [7, 7, 7]]
STEPS = 4
END = 5


@functools.cache
def weights(model):
    return decoding.prepare(model, params(model), tiny.routing_state(model))


@functools.cache
def _compiled(model):
    built = models.build(model)

    @jax.jit
    def log_p(given, batch):
        output = built.apply(*given, batch, key=jax.random.key(0), train=False)
        return jax.nn.log_softmax(output.logits)

    return log_p


def log_p_BTV(model, inputs, tokens_BT):
    """Of what follows each token of the decoder, by the model that is trained."""
    ones_BT = np.ones_like(tokens_BT)
    place_BT = np.arange(tokens_BT.shape[1])[None] * ones_BT
    read = generation.encoder_inputs(inputs, model)
    batch = Batch(tokens_BT, tokens_BT, ones_BT, place_BT, encoder=read)
    given = params(model), tiny.routing_state(model)
    return np.asarray(_compiled(model)(given, jax.tree.map(jnp.asarray, batch)))


@pytest.mark.parametrize(
    "changes", [{}, {"experts": None, "position": "rotary"}], ids=["moe", "dense"]
)
def test_as_many_forward_passes(changes):
    """Inputs of different lengths together; the encoder is read once."""
    model = config(**changes)
    got = generation.generate(model, weights(model), [[0]] * 3, STEPS, inputs=INPUTS, doc_id=-1)
    for inputs, tokens in zip(INPUTS, got, strict=True):
        row = np.array([[0, *tokens[:-1]]])
        assert tokens.tolist() == log_p_BTV(model, [inputs], row)[0].argmax(-1).tolist()


def test_on_a_mesh_as_on_one_device():
    model = config()
    given = {"inputs": INPUTS, "doc_id": -1}
    searched = {"width": 3, "end": END, **given}
    want = generation.generate(model, weights(model), [[0]] * 3, STEPS, **given)
    best = beams.search(model, weights(model), [[0]] * 3, STEPS, **searched)
    with tiny.on("2x2x2"):
        there = decoding.prepare(model, tiny.params(model), tiny.routing_state(model))
        got = generation.generate(model, there, [[0]] * 3, STEPS, **given)
        found = beams.search(model, there, [[0]] * 3, STEPS, **searched)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(found.tokens, best.tokens)
    np.testing.assert_allclose(found.scores, best.scores, rtol=1e-5)


SCARCE = {"capacity_factor": 0.5, "eval_capacity_factor": 0.5}


def test_under_capacity_too():
    """The encoder drops as in evaluation, here by probability; the decoder by position."""
    model = config(
        experts=tiny.moe_config(k=2, **SCARCE), encoder_batch_priority=True, num_layers=4
    )
    given = {"inputs": [[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]], "doc_id": -1}
    got = generation.generate(model, weights(model), [[0]] * 2, 8, row=9, **given)
    before = np.concatenate([np.zeros((2, 1), int), got], axis=1)
    want_BTV = log_p_BTV(model, given["inputs"], before)
    np.testing.assert_array_equal(got, want_BTV[:, :-1].argmax(-1))
    without = generation.generate(model, weights(model), [[0]] * 2, 8, **given)
    assert (without != got).any()


def test_prompts_of_the_decoder_may_differ_in_length():
    """Padding starts no document, which would see nothing of the encoder's."""
    model = config()
    prompts = [[0], [0, 5, 3], [0, 5, 3]]
    given = {"inputs": INPUTS, "doc_id": -1}
    got = generation.generate(model, weights(model), prompts, STEPS, **given)
    for i, prompt in enumerate(prompts[:2]):
        alike = generation.generate(model, weights(model), [prompt] * 3, STEPS, **given)
        np.testing.assert_array_equal(got[i], alike[i])


def test_an_encoder_wants_inputs():
    model = config()
    with pytest.raises(ValueError, match="inputs are what an encoder reads: give them"):
        generation.generate(model, weights(model), [[0]], 1)
    with pytest.raises(ValueError, match="one list of inputs for each prompt"):
        generation.generate(model, weights(model), [[0]], 1, inputs=INPUTS)
    with pytest.raises(ValueError, match="inputs of at least one token each"):
        generation.generate(model, weights(model), [[0]], 1, inputs=[[]])


SMALL = {"vocab_size": 10, "experts": None}


def by_brute_force(model, inputs, steps, alpha):
    """The best score of all texts of so many tokens, and of those that end before, and the text."""
    rows = np.array(list(itertools.product(range(10), repeat=steps)))
    before = np.concatenate([np.zeros((len(rows), 1), int), rows[:, :-1]], axis=1)
    log_p = np.take_along_axis(log_p_BTV(model, [inputs] * len(rows), before), rows[..., None], -1)
    best = (-np.inf, None)
    for row, nats in zip(rows.tolist(), log_p[..., 0], strict=True):
        length = row.index(END) + 1 if END in row else steps
        score = nats[:length].sum() / beams.penalty(length, alpha)
        best = max(best, (score, row[:length]))
    return best


@pytest.mark.parametrize("alpha", [0.0, 0.6, 3.0])
def test_beams_find_the_best_of_all(alpha):
    model = config(**SMALL)
    found = beams.search(
        model,
        weights(model),
        [[0]] * 2,
        3,
        width=5,
        end=END,
        alpha=alpha,
        inputs=[[3, 1, 4], [2, 6, 6]],
        doc_id=-1,
    )
    for b, inputs in enumerate(([3, 1, 4], [2, 6, 6])):
        score, row = by_brute_force(model, inputs, 3, alpha)
        assert found.scores[b, 0] == pytest.approx(score, rel=1e-5)
        assert [t for t in found.tokens[b, 0].tolist() if t >= 0] == row
        assert (np.diff(found.scores[b]) <= 0).all()
        assert len({tuple(t) for t in found.tokens[b].tolist()}) == 5


def test_one_beam_is_greedy():
    model = config(**SMALL)
    given = {"inputs": INPUTS, "doc_id": -1}
    found = beams.search(
        model, weights(model), [[0]] * 3, STEPS, width=1, end=9, alpha=0.0, **given
    )
    want = generation.generate(model, weights(model), [[0]] * 3, STEPS, **given)
    for row, greedy in zip(found.tokens[:, 0], want, strict=True):
        if 9 not in greedy:
            np.testing.assert_array_equal(row, greedy)
    assert sum(9 not in greedy for greedy in want) >= 2
    with pytest.raises(ValueError, match="width=6 beams must be from 1 to half"):
        beams.search(model, weights(model), [[0]], 1, width=6, end=9, **given)
