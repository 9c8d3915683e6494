"""Span corruption: T5's distribution of spans, exact; nothing is lost; batches are pure."""

import collections
import dataclasses
import itertools
import math

import numpy as np
import pytest

from moe import models, objectives
from moe.data import prepare
from moe.objectives import span_corruption
from moe.objectives.span_corruption import Options
from moe.training import loop, metrics
from tests.training import toys

OPTIONS = Options()


@pytest.mark.parametrize(
    ("length", "want"),
    [
        (568, (85, 28, 512, 114)),  # of T5: 512 inputs and 114 targets
        (64, (10, 3, 58, 14)),
        (7, (1, 1, 8, 3)),
        (2, (1, 1, 3, 3)),
    ],
)
def test_sizes_are_those_of_t5(length, want):
    assert span_corruption.sizes(OPTIONS, length) == want
    assert span_corruption.lengths(OPTIONS, length) == (want[3], want[2])


def masks(options, length):
    """Every mask that may be drawn, each as likely as the others."""
    s = span_corruption.sizes(options, length)

    def cuts(items):
        for places in itertools.combinations(range(1, items), s.spans - 1):
            yield np.diff([0, *places, items])

    for noise, rest in itertools.product(cuts(s.noise), cuts(length - s.noise)):
        parts = itertools.chain(*zip(rest, noise, strict=True))
        yield tuple(itertools.chain(*([i % 2 == 1] * n for i, n in enumerate(parts))))


def test_every_mask_is_as_likely_as_the_others():
    """12 tokens, 6 of them noise in 3 spans: 100 masks; chi-square of 20,000 draws."""
    options = Options(share=0.5, mean_span=2.0)
    known = list(masks(options, 12))
    assert len(set(known)) == len(known) == math.comb(5, 2) ** 2
    rng = np.random.default_rng(0)
    draws = 20_000
    drawn = collections.Counter(
        tuple(span_corruption.noise_mask(rng, options, 12).tolist()) for _ in range(draws)
    )
    assert set(drawn) == set(known)
    mean = draws / len(known)
    chi_square = sum((drawn[mask] - mean) ** 2 / mean for mask in known)
    assert chi_square < 134.6  # which 99 degrees of freedom exceed once in a hundred


def test_the_first_token_is_never_noise_and_the_last_always_is():
    """As in T5, since pieces alternate."""
    for seed in range(20):
        mask_T = span_corruption.noise_mask(np.random.default_rng(seed), OPTIONS, 64)
        assert not mask_T[0] and mask_T[-1] and mask_T.sum() == 10
        assert (np.diff(mask_T.astype(int)) == 1).sum() == 3


def test_by_hand():
    tokens_T = np.array([5, 6, 7, 8, 9])
    mask_T = np.array([False, True, True, False, True])
    inputs_U, targets_T = span_corruption.corrupt(tokens_T, mask_T, top=99, end=0)
    assert inputs_U.tolist() == [5, 99, 8, 98, 0]
    assert targets_T.tolist() == [99, 6, 7, 98, 9, 0]


def filled(inputs_U, targets_T, sentinels):
    """The row, put together again."""
    spans = {}
    for token in targets_T[:-1]:
        if token in sentinels:
            at = token
            spans[at] = []
        else:
            spans[at].append(token)
    return [x for token in inputs_U[:-1] for x in spans.get(token, [token])]


def test_nothing_is_lost():
    rng = np.random.default_rng(0)
    for length in (2, 3, 10, 64, 200):
        tokens_T = rng.integers(1, 50, length)
        s = span_corruption.sizes(OPTIONS, length)
        inputs_U, targets_T = span_corruption.row(tokens_T, (1, 2), OPTIONS, top=99, end=0)
        assert (len(inputs_U), len(targets_T)) == (s.inputs, s.targets)
        sentinels = range(99 - s.spans + 1, 100)
        assert filled(inputs_U, targets_T, sentinels) == tokens_T.tolist()


def run_config(**sections):
    """A tiny encoder-decoder with experts in both stacks."""
    sections = {"train": {}, "model": {}, **sections}
    length = 16
    extra = span_corruption.sentinels(OPTIONS, length)
    own = toys.run_config(train={"seq_len": length, "evaluators": ("loss",)} | sections["train"])
    kind = models.MODELS["encoder_decoder"].config
    sizes = vars(own.model) | {"vocab_size": toys.V + extra, "num_layers": 2, "moe_every": 2}
    sizes |= {"position": "relative", "attention": kind.attention, "scale_embedding": False}
    return dataclasses.replace(
        own,
        architecture="encoder_decoder",
        model=kind(**sizes | sections["model"]),
        objective=objectives.ObjectiveConfig(name="span_corruption"),
    )


@pytest.fixture(scope="module")
def data():
    return toys.data()


def test_a_batch_is_a_pure_function_of_its_step(data):
    run = run_config()
    source = run.source(data)
    rows = np.arange(run.train.batch_size)
    one = source.train(3, rows)
    some = source.train(3, rows[2:5])
    for whole, part in zip(leaves(one), leaves(some), strict=True):
        np.testing.assert_array_equal(whole[2:5], part)
    assert not np.array_equal(one.targets_BT, source.train(4, rows).targets_BT)
    held = [list(source.held_out("test", 2)) for _ in range(2)]
    for first, second in zip(*held, strict=True):
        for a, b in zip(leaves(first), leaves(second), strict=True):
            np.testing.assert_array_equal(a, b)


def leaves(batch):
    found = [*batch[:4], *batch.encoder]
    assert all(x.dtype == np.int32 for x in found)
    return found


def test_the_decoder_reads_what_came_before_each_target(data):
    run = run_config()
    batch = run.source(data).train(0, np.arange(run.train.batch_size))
    np.testing.assert_array_equal(batch.tokens_BT[:, 1:], batch.targets_BT[:, :-1])
    assert (batch.tokens_BT[:, 0] == data.doc_id).all()
    assert (batch.targets_BT[:, -1] == data.doc_id).all()
    assert batch.targets_BT.max() == run.model.vocab_size - 1
    shapes = run.task.batch_shapes(run.train.batch_size, run.train.seq_len)
    assert shapes.tokens_BT.shape == batch.tokens_BT.shape
    assert shapes.encoder.tokens_BU.shape == batch.encoder.tokens_BU.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "decoder"}, "wants a ModelConfig"),
        ({"objective": objectives.ObjectiveConfig()}, "gives an encoder nothing to read"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(run_config(), **changes)


def test_a_decoder_learns_no_spans():
    with pytest.raises(ValueError, match="needs an encoder"):
        spans = objectives.ObjectiveConfig(name="span_corruption")
        dataclasses.replace(toys.run_config(), objective=spans)


def test_the_vocabulary_has_room_for_sentinels():
    with pytest.raises(ValueError, match=r"is not data.vocab_size=\d+ \+ 1 of objective"):
        run_config(model={"vocab_size": toys.V})


def test_it_trains_on_a_mesh(data, tmp_path, monkeypatch):
    """With routers that have a state, in both stacks, of a layer each."""
    run = run_config(model={"num_layers": 1, "moe_every": 1})
    monkeypatch.setattr(prepare, "prepare", lambda config: data)
    result = loop.train(run, tmp_path)
    records = metrics.read(tmp_path / "metrics.jsonl")
    losses = [r["loss"] for r in records if r["split"] == "train"]
    assert len(losses) == run.train.steps and losses[-1] < losses[0]
    assert np.isfinite(result["test_nll"])
    (load,) = {np.shape(r["load_LE"]) for r in records if "load_LE" in r}
    assert load == (2, run.model.experts.num_experts)
