"""Domains are taken out, added and removed, and nobody else notices."""

import jax
import numpy as np
import pytest

from moe.adapt import banks, domains
from moe.errors import UserError
from moe.routing import rre
from tests import tiny
from tests.adapt import cases

RRE = {"router": "rre", "k": 1, "options": rre.Options(groups=4)}
DEMIX = {"router": "domain", "k": 1, "num_experts": 4}
TIGHT = {"capacity_factor": 1.5, "eval_capacity_factor": 1.5}  # some tokens are dropped
UNLEARNED = {"balance_weight": 0.0, "z_weight": 0.0, "router_scale": 0.0}


def model(router):
    return cases.trained(experts={**UNLEARNED, **TIGHT, **router})


def text(seed=0):
    """Rows whose documents are of one domain each of four."""
    batch = tiny.inputs(seed=seed)
    rows = np.arange(len(batch.tokens_BT))[:, None]
    domain_BT = (rows + np.asarray(batch.segment_BT)) % 4
    return batch._replace(domain_BT=domain_BT.astype(np.int32))


@pytest.mark.parametrize("router", [RRE, DEMIX])
@pytest.mark.parametrize("kept", [(3, 1), (0, 1, 2, 3, 1)])
def test_a_part_says_of_its_text_what_the_whole_says(router, kept):
    """To the bit, with drops, and a domain that was added changes nothing for the others."""
    whole = model(router)
    part = domains.of(whole, kept)
    heard = domains.only(text(), kept)
    want = cases.logits(whole, heard)
    got = cases.logits(part, domains.renumbered(heard, kept))
    assert len(want)
    np.testing.assert_array_equal(got, want)


def test_an_expert_that_goes_and_one_that_comes_touch_no_bit():
    """Of the others' parameters, and of what is shared by all."""
    whole = model(DEMIX)
    without = domains.of(whole, (0, 1, 3))
    more = domains.of(without, (0, 1, 2, 0))
    for name, w in banks.of(whole)[0]["experts"].items():
        found = banks.of(more)[0]["experts"][name]
        np.testing.assert_array_equal(found, w[:, np.array([0, 1, 3, 0])])
    rest = [banks.with_banks(m.params, m.model, [{}]) for m in (whole, more)]
    jax.tree.map(np.testing.assert_array_equal, *rest)
    assert more.model == whole.model


def test_what_has_no_domains():
    with pytest.raises(UserError, match="'top_k' does not go by domains"):
        domains.of(cases.trained(), (0,))
    for wrong in ((), (4,), (-1,)):
        with pytest.raises(UserError, match="some of the domains 0 to 3"):
            domains.of(model(DEMIX), wrong)
