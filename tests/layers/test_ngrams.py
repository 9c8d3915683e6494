"""Hashed n-grams: the rows by hand, no look across documents, any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import flops, models
from moe.layers import ngrams
from moe.models import contract, decoder
from tests import tiny

ROWS = 16
CONFIG = tiny.model(experts=None, ngram_rows=ROWS)


def logits(config, params, inputs):
    network = decoder.Decoder(config)
    variables = {"params": params, **contract.router_variables(config, {})}
    place = (inputs.tokens_BT, inputs.segment_BT, inputs.position_BT)
    return jax.jit(lambda v, *x: network.apply(v, *x, False))(variables, *place)


def test_the_hash_by_hand_spreads_and_knows_the_order():
    def mixed(*tokens):
        h = 0
        for factor, token in zip((0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35), tokens, strict=False):
            h = (h ^ token) * factor % 2**32
            h ^= h >> 15
        return h % 1000

    last, before, first = (
        jnp.array([[7, 3, 31, 31]]),
        jnp.array([[3, 7, 0, 2]]),
        jnp.arange(4)[None],
    )
    want = [mixed(*tokens) for tokens in zip(last[0].tolist(), before[0].tolist(), strict=True)]
    assert ngrams.row_of((last, before), 1000)[0].tolist() == want
    threes = zip(*(x[0].tolist() for x in (last, before, first)), strict=True)
    assert ngrams.row_of((last, before, first), 1000)[0].tolist() == [mixed(*t) for t in threes]
    assert want[0] != want[1]
    a, b = np.meshgrid(np.arange(100), np.arange(100))
    counts = np.bincount(np.asarray(ngrams.row_of((jnp.array(a), jnp.array(b)), 100)).ravel())
    assert len(counts) == 100 and counts.max() < 2 * counts.mean()


def test_a_row_is_added_for_each_n_that_the_document_has():
    """Against the same sum by hand, of tables that are not zero."""
    inputs = tiny.inputs(4)
    params = tiny.params(CONFIG)
    seen = {}

    class Embedding(decoder.Trunk):
        @decoder.nn.compact
        def __call__(self, info):
            return self.embed(info)[0]

    info = decoder.attention.TokenInfo(*(inputs.segment_BT, inputs.position_BT, inputs.tokens_BT))
    names = ("embed", "ngram_2", "ngram_3")
    seen = Embedding(CONFIG).apply({"params": {n: params[n] for n in names}}, info)
    tokens_BT, place_BT = (np.asarray(x) for x in (inputs.tokens_BT, inputs.position_BT))
    want = np.array(params["embed"])[tokens_BT]
    for b, t in np.ndindex(*tokens_BT.shape):
        for n in ngrams.ORDERS:
            if place_BT[b, t] >= n - 1:
                gram = tuple(jnp.array([[tokens_BT[b, t - i]]]) for i in range(n))
                want[b, t] += np.array(params[f"ngram_{n}"])[int(ngrams.row_of(gram, ROWS)[0, 0])]
    assert (place_BT == 0).any(axis=1).all() and place_BT.max() >= 2
    tiny.assert_close(seen, want * tiny.D**0.5)


def test_the_tables_start_at_zero_and_change_nothing():
    inputs = tiny.inputs(4)
    params = models.init(CONFIG, jax.random.key(0))
    assert not any(params[f"ngram_{n}"].any() for n in ngrams.ORDERS)
    plain = models.init(tiny.model(experts=None), jax.random.key(0))
    without = logits(tiny.model(experts=None), plain, inputs)
    np.testing.assert_array_equal(logits(CONFIG, params, inputs), without)


@pytest.mark.parametrize("mesh", ["8x1x1", "2x2x2"])
def test_no_logit_depends_on_the_mesh(mesh):
    inputs = tiny.inputs(8)
    want = logits(CONFIG, tiny.params(CONFIG), inputs)
    with tiny.on(mesh):
        got = logits(CONFIG, tiny.params(CONFIG), tiny.put(inputs))
    tiny.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_what_they_cost():
    """Parameters of which a token meets one row a table, and no product."""
    plain = tiny.model(experts=None)
    more = len(ngrams.ORDERS) * tiny.D
    count, without = (flops.parameters(config) for config in (CONFIG, plain))
    assert count.total == without.total + ROWS * more
    assert count.active == without.active + more
    size = {"batch": 8, "length": 8, "by": "executed"}
    assert flops.per_token(CONFIG, **size) == flops.per_token(plain, **size)
