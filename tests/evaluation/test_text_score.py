"""Bits per byte where they can be counted on fingers."""

import math
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import objectives
from moe.data import batches, prepared
from moe.evaluation import held_out, text
from moe.objectives import next_token
from tests import tiny


def toy(tokens, token_bytes) -> prepared.Prepared:
    stream = np.array(tokens, np.uint16)
    return prepared.Prepared(
        path=pathlib.Path("."),
        tokens={"test": stream},
        domains={"test": np.zeros(len(stream), np.uint8)},
        domain_names=("toy",),
        token_bytes=np.array(token_bytes, np.int32),
        meta={},
    )


# Five rows of two tokens; targets 1 2, 0 3, 1 1, 2 0, 3 3 are 1 2 0 3 1 1 2 0 3 3 bytes.
DATA = toy([0, 1, 2, 0, 3, 1, 1, 2, 0, 3, 3], token_bytes=[0, 1, 2, 3])


@jax.jit
def two_bits(params, inputs, index):
    """A model that loses two bits a token."""
    real_BT = inputs.segment_BT > 0
    nll_BT = jnp.where(real_BT, 2 * math.log(2), 0.0)
    sums = objectives.contract.Sums(nll_BT.sum(), real_BT.sum().astype(jnp.float32), None)
    return objectives.contract.ForwardOutput(sums, nll_BT, None)


DENSE = tiny.model(experts=None)


def score(eval_step=two_bits, state=None, model=DENSE, batch_size=2, max_batches=0):
    """The score of a run of rows of two tokens."""
    train = types.SimpleNamespace(
        seq_len=2, batch_size=batch_size, seed=0, unique_tokens=0, test_batches=max_batches
    )
    run = types.SimpleNamespace(train=train, micro_batch=batch_size, model=model)
    source = next_token.source(run, DATA)
    return text.score(eval_step, source, state, DATA, "test", run=run)


def test_by_hand():
    """Ten tokens of two bits over 16 bytes; the last batch has one row of padding."""
    got = score()
    assert got.bits_per_byte == pytest.approx(20 / 16, rel=1e-6)
    assert got.nll == pytest.approx(2 * math.log(2), rel=1e-6)
    np.testing.assert_allclose(got.nll_R, [4 * math.log(2)] * 5, rtol=1e-6)
    assert got.tokens_R.tolist() == [2] * 5
    assert got.metrics.keys() == {"loss", "nll"}
    assert got.domain_nll == {"toy": pytest.approx(2 * math.log(2), rel=1e-6)}
    rows = batches.eval_rows(DATA, "test", 2, 0)
    # Documents begin at tokens 0, 3 and 8; rows at 0, 2, 4, 6 and 8.
    assert got.document_R.tolist() == [[0, 0, 1, 1, 2][row] for row in rows]


def test_part_of_the_split():
    """Two batches of two: rows 0, 1, 2 and 3 of five, mixed, of 1 2 0 3 1 1 2 0 bytes."""
    got = score(max_batches=2)
    assert got.bits_per_byte == pytest.approx(16 / 10, rel=1e-6) and len(got.nll_R) == 4


def test_the_size_of_a_batch_changes_nothing():
    want = score()
    for batch_size in (1, 4, 8):
        got = score(batch_size=batch_size)
        assert got.bits_per_byte == pytest.approx(want.bits_per_byte, rel=1e-6)
        np.testing.assert_allclose(got.nll_R, want.nll_R)


def test_rows_keep_their_order():
    """Each row has a loss of its own, that of its first token."""

    def by_token(params, inputs, index):
        nll_BT = jnp.where(inputs.segment_BT > 0, inputs.tokens_BT, 0).astype(jnp.float32)
        nll_BT = nll_BT.at[:, 1].set(0)
        sums = objectives.contract.Sums(nll_BT.sum(), (inputs.segment_BT > 0).sum() * 1.0, None)
        return objectives.contract.ForwardOutput(sums, nll_BT, None)

    rows = batches.eval_rows(DATA, "test", 2, 0)
    assert score(by_token).nll_R.tolist() == [[0, 2, 3, 1, 0][row] for row in rows]


def test_every_batch_has_its_number():
    seen = []

    def numbered(params, inputs, index):
        seen.append(int(index))
        return two_bits(params, inputs, index)

    score(numbered)
    assert seen == [0, 1, 2]


def test_on_a_mesh_the_same():
    with tiny.on("8x1"):
        got = score(batch_size=8)
    want = score(batch_size=8)
    assert got.bits_per_byte == want.bits_per_byte
    np.testing.assert_array_equal(got.nll_R, want.nll_R)


def test_a_uniform_model_pays_log_v_for_every_token():
    """A real network, all of whose weights are zero, with statistics of its router."""
    config = tiny.model(num_layers=1, moe_every=1)
    state = jax.tree.map(jnp.zeros_like, tiny.state(config))
    got = score(held_out.eval_step_of(tiny.task_of(config)), state, config)
    assert got.bits_per_byte == pytest.approx(10 * math.log2(tiny.V) / 16, rel=1e-5)
    assert got.metrics["entropy"] == pytest.approx(math.log(tiny.E), rel=1e-5)
    assert got.metrics["realised_k"] == 1 and got.metrics["load_LE"].shape == (1, tiny.E)
