"""Rows of two candidates and of a few, their loss by hand, and a ranker that learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moe import errors, objectives
from moe.data import candidates, prepare
from moe.ensemble import blender
from moe.models import encoder_decoder
from moe.models.pair_ranker import FIRST, SECOND, SOURCE, PairRankerConfig
from moe.objectives import fusing, pair_ranking
from moe.training import step
from tests import tiny
from tests.objectives import pairs
from tests.objectives.pairs import CONFIG, SIZES
from tests.training import toys


def rows(x_B=(0, 1, *[-1] * 6), pair=(1, 2)):
    return pair_ranking.rows(pairs.found(3), np.array(x_B), np.array([pair] * len(x_B)))


def test_a_row_by_hand():
    """<source> x <candidate1> y <candidate2> y', in which the end of y leaves a hole."""
    found, batch = pairs.found(3), rows()
    x, y, other = found.input_XZ[0], found.candidate_XNY[0, 1], found.candidate_XNY[0, 2]
    assert batch.tokens_BT[0].tolist() == [SOURCE, *x, FIRST, *y[:2], 0, SECOND, *other]
    assert batch.segment_BT[0].tolist() == [1] * 8 + [0] + [1] * 4
    assert batch.position_BT[1].tolist() == [*range(13)]
    better = found.quality_XN[0, 1] > found.quality_XN[0, 2]
    assert batch.targets_BT[0].tolist() == [0] * 5 + [better] + [0] * 3 + [not better] + [0] * 3
    assert not any(part[2].any() for part in batch[:4]), "the other rows are padding"


def test_the_loss_by_hand():
    """z log sigmoid(s) + (1 - z) log(1 - sigmoid(s)) of both; what stands in a hole is not seen."""
    params, batch = tiny.params(CONFIG), rows()
    score_B2 = blender.scores(CONFIG, params, batch)
    forward = jax.jit(functools.partial(objectives.task(CONFIG).forward, train=False))
    sigmoid_B2 = 1 / (1 + np.exp(-np.asarray(score_B2, float)))
    found = pairs.found(3)
    z_B = found.quality_XN[:2, 1] > found.quality_XN[:2, 2]
    z_B2 = np.stack([z_B, ~z_B], axis=1)
    want_B = -np.log(np.where(z_B2, sigmoid_B2[:2], 1 - sigmoid_B2[:2])).sum(1) / 2
    got = forward(params, {}, batch, jax.random.key(0))
    tiny.assert_close(got.nll, np.array([*want_B, *[0.0] * 6], np.float32))
    assert got.sums.targets == 2
    right = (score_B2[:2, 0] > score_B2[:2, 1]) == z_B
    assert got.sums.extra["accuracy"] == right.sum()
    tokens_BT = batch.tokens_BT.copy()
    tokens_BT[0, 8] = 7
    again = forward(params, {}, batch._replace(tokens_BT=tokens_BT), jax.random.key(0))
    tiny.assert_equal(again.nll, got.nll)


@pytest.fixture
def folder(tmp_path):
    """A candidate is one token, three times, and the better the higher it is."""
    for split in ("train", "validation", "test"):
        found = pairs.found(20, seed=len(split))
        same_XNY = np.tile(1 + found.quality_XN[..., None], 3).astype(np.int32)
        found = found._replace(candidate_XNY=same_XNY)
        candidates.write(tmp_path, split, found)
    return str(tmp_path)


def run(folder, name, model, architecture, **options):
    base = toys.run_config(train={"evaluators": ("loss",), "seq_len": 7}, mesh={"expert": 1})
    given = objectives.OBJECTIVES[name].options(folder=folder, written=3, **options)
    return dataclasses.replace(
        base,
        architecture=architecture,
        model=model,
        objective=objectives.ObjectiveConfig(name=name, options=given),
        data=prepare.DataConfig(vocab_size=toys.V),
    )


def test_a_ranker_learns(folder):
    source = run(folder, "pair_ranking", CONFIG_OF_TOYS, "pair_ranker").source(toys.data())
    tx, params = optax.adam(0.02), tiny.params(CONFIG)
    state = step.State(jnp.int32(0), params, tx.init(params), {})
    advance = step.make_train_step(objectives.task(CONFIG), tx, 0)
    for number in range(40):
        state, metrics = advance(state, source.train(number, np.arange(8)))
    assert metrics["nll"] < 0.5
    held_out = list(source.held_out("validation", 0))
    assert len(held_out) == 3 and (held_out[-1].segment_BT > 0).any(1).sum() == 20 - 2 * 8
    score_XB2 = [blender.scores(CONFIG, state.params, batch) for batch in held_out]
    first_X = np.concatenate([score_B2[:, 0] > score_B2[:, 1] for score_B2 in score_XB2])[:20]
    better_X = np.concatenate([batch.targets_BT[:, 5] for batch in held_out])[:20]
    assert (first_X == better_X).sum() >= 18


CONFIG_OF_TOYS = dataclasses.replace(CONFIG, vocab_size=toys.V)


def test_batches_are_drawn_by_seed_step_and_row(folder):
    source = run(folder, "pair_ranking", CONFIG_OF_TOYS, "pair_ranker").source(toys.data())
    some, other = (source.train(number, np.array([2, 5])) for number in (3, 4))
    whole = source.train(3, np.arange(8))
    for part, all_BT in zip(some[:4], whole[:4], strict=True):
        tiny.assert_equal(part, all_BT[[2, 5]])
    assert (some.tokens_BT != other.tokens_BT).any()
    first_B = [row[-1] < row[0] for row in (source.train(0, np.arange(64)).targets_BT[:, [5, 9]])]
    assert 10 < sum(first_B) < 54, "the better one is read first half of the time"


READER = encoder_decoder.EncoderDecoderConfig(
    **{k: v for k, v in SIZES.items() if k not in ("position", "attention")}
    | {"vocab_size": toys.V + 3}
)


def test_what_a_fuser_reads(folder):
    """Input and candidates, each after its own id; one that ended is shorter."""
    found, top = pairs.found(3), toys.V + 2
    read = fusing.inputs(found, top)
    y, other, last = found.candidate_XNY[0]
    assert read[0] == [*found.input_XZ[0], top, *y, top - 1, *other[:2], top - 2, *last]
    fuser = run(folder, "fusing", READER, "encoder_decoder")
    (*_, batch) = fuser.source(toys.data()).held_out("test", 0)
    assert batch.encoder.tokens_BU.shape == (8, 16) and batch.targets_BT.shape == (8, 3)
    assert (batch.encoder.segment_BU > 0).any(1).tolist() == [True] * 4 + [False] * 4
    assert (batch.segment_BT > 0).any(1).tolist() == [True] * 4 + [False] * 4
    tests = candidates.read(folder, "test")
    assert batch.targets_BT[3].tolist() == tests.reference_XY[19].tolist()
    short = fusing.batch([[7, 8], []], np.array([[1, 2]] * 2), 3, 0)
    assert short.encoder.segment_BU.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert short.encoder.tokens_BU.tolist() == [[7, 8, 0], [0, 0, 0]]
    assert short.tokens_BT.tolist() == [[0, 1], [0, 0]]


def test_what_cannot_be_learned(folder):
    fuse = {"architecture": "encoder_decoder", "model": READER}
    with pytest.raises(errors.UserError, match="needs a model that compares"):
        run(folder, "pair_ranking", READER, "encoder_decoder")
    with pytest.raises(errors.UserError, match="needs an encoder"):
        run(folder, "fusing", CONFIG_OF_TOYS, "pair_ranker")
    with pytest.raises(errors.UserError, match=r"vocab_size=260 is not data.vocab_size=257 \+ 2"):
        run(folder, "fusing", fuse["model"], fuse["architecture"], fused=2)
    part = run(folder, "fusing", **fuse).replace(train={"unique_tokens": 64})
    with pytest.raises(errors.UserError, match="unique_tokens=64 does nothing"):
        part.source(toys.data())
    lost = run(f"{folder}/lost", "fusing", **fuse).source(toys.data())
    with pytest.raises(errors.UserError, match=r"lost/train.npz is not there"):
        lost.train(0, np.arange(8))
    with pytest.raises(errors.UserError, match="reads both ways"):
        PairRankerConfig(**SIZES)
