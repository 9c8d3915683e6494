"""Every token with its choices, in the order of reading."""

import numpy as np
import pytest

from moe.errors import UserError
from moe.evaluation import traces
from tests import tiny
from tests.adapt import cases


def test_every_real_token_with_its_own_choices():
    """Of two batches, in groups of two rows."""
    trained = cases.trained(experts={"group_size": 32})
    batches = [tiny.inputs(), tiny.inputs(seed=1)]
    batches = [batch._replace(domain_BT=batch.tokens_BT % 3) for batch in batches]
    found = traces.collect(trained, batches)
    alone = cases.trained()  # a group is one row
    first = 0
    for batch in batches:
        out = tiny.output(alone.model, trained.params, {}, batch)
        real_BT = np.asarray(batch.segment_BT) > 0
        own = slice(first, first + real_BT.sum())
        first = own.stop
        expert_LBTK = np.asarray(out.choices)
        np.testing.assert_array_equal(found.expert_LNK[:, own], expert_LBTK[:, real_BT])
        np.testing.assert_array_equal(found.token_N[own], batch.tokens_BT[real_BT])
        np.testing.assert_array_equal(found.target_N[own], batch.targets_BT[real_BT])
        np.testing.assert_array_equal(found.domain_N[own], batch.domain_BT[real_BT])
        predicted_BT = np.asarray(out.logits).argmax(-1)
        np.testing.assert_array_equal(found.predicted_N[own], predicted_BT[real_BT])
    assert first == len(found.token_N)
    starts_N = np.diff(found.document_N, prepend=-1) > 0
    assert (found.position_N[starts_N] == 0).all()
    np.testing.assert_allclose(found.gate_LNK.sum(-1), 1, rtol=1e-5)


def test_what_has_no_choices():
    dense = tiny.model(experts=None)
    with pytest.raises(UserError, match="dense"):
        traces.collect(traces.Trained(dense, tiny.params(dense), {}), [tiny.inputs()])
    with pytest.raises(UserError, match="no token"):
        traces.collect(cases.trained(), [])
