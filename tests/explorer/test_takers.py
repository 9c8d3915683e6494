"""Which expert takes what: one that takes all commas, and experts at random."""

import numpy as np

from moe.analysis import token_labels
from moe.evaluation.traces import Traces
from moe.explorer import takers
from moe.explorer.takers import Chosen, Kinds

SPELLED = [",", " the", " 12", " Cat", "ing", ""]
E = 4
COMMAS = 2  # whose expert this is, in layer 1
DOCUMENT_N = np.repeat(np.arange(40), 25)


def rows(kinds, expert_LN):
    """By name."""
    chosen = Traces(*[DOCUMENT_N] * 6, np.stack([expert_LN, expert_LN], -1), np.ones(1))
    found = takers.rows(kinds, Chosen("", chosen, E), DOCUMENT_N)
    return {kinds.names[row.kind]: row for row in found}


def test_an_expert_that_takes_all_commas():
    rng = np.random.default_rng(0)
    token_N = rng.integers(0, len(SPELLED), len(DOCUMENT_N))
    expert_LN = rng.integers(0, E, (3, len(token_N)))
    expert_LN[1, token_N == 0] = COMMAS
    expert_LN[2] = E  # none
    kind_N = np.where(token_N == 5, -1, token_labels.kinds(SPELLED)[token_N])
    found = rows(Kinds("kind", token_labels.KINDS, kind_N), expert_LN)
    assert [*found] == [*token_labels.KINDS[:-1]]
    assert found["punctuation"].tokens == (token_N == 0).sum()
    by_chance, own, nothing = found["punctuation"].layers
    assert own.expert == COMMAS and own.of_kind == 1 and own.told.above_chance
    assert own.of_all == (expert_LN[1, kind_N >= 0] == COMMAS).mean()
    assert not by_chance.told.above_chance and 0.25 < by_chance.of_kind < 0.4
    assert nothing.of_kind == nothing.of_all == nothing.told.value == 0
    assert not any(row.layers[0].told.above_chance for row in found.values())


def test_domains_are_shuffled_over_documents():
    """An expert for each document tells of its tokens' domain, but no more than it would of any."""
    expert_N = np.random.default_rng(1).integers(0, E, 40)[DOCUMENT_N]
    by_chance = np.random.default_rng(2).integers(0, 2, 40)[DOCUMENT_N]
    own = expert_N // 2
    for domain_N, more in ((by_chance, False), (own, True)):
        found = rows(Kinds("domain", ("one", "two"), domain_N, of_documents=True), expert_N[None])
        assert [row.layers[0].told.above_chance for row in found.values()] == [more, more]
    assert rows(Kinds("nothing", ("one",), np.full(1000, -1)), expert_N[None]) == {}
