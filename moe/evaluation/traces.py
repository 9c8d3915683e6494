"""What every token of some text chose, in every MoE layer: what specialisation is read from.

Letters: N real tokens in the order in which they are read, L MoE layers, K choices.
"""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from moe import models, schema, sharding
from moe.adapt import banks
from moe.adapt.banks import Trained
from moe.batch import Batch
from moe.dispatch import groups
from moe.routing import assignment


class Traces(NamedTuple):
    """Tokens and their choices; all but gates are integers."""

    token_N: np.ndarray  # ids that were read
    target_N: np.ndarray  # ids that came next
    predicted_N: np.ndarray  # ids that the model thought most probable
    document_N: np.ndarray  # numbers of documents, from 0
    position_N: np.ndarray  # in the document, or from the start of its row if that is later
    domain_N: np.ndarray
    expert_LNK: np.ndarray  # the first choice first; E where a router chooses fewer than K
    gate_LNK: np.ndarray


def collect(trained: Trained, batches: Iterable[Batch]) -> Traces:
    """The choices that a decoder makes in evaluation, whether there is a slot for them or not.

    Args:
      trained: a decoder whose tokens choose experts.
      batches: of host arrays, as of `BatchSource.held_out`.

    Raises:
      UserError: if tokens do not choose in this model, or there is no token.
    """
    experts = banks.experts(trained.model)
    schema.require(
        experts.routing.kind is assignment.TopKAssignment and len(trained.model.stacks) == 1,
        f"choices are traced in decoders whose tokens choose; experts.router={experts.router!r}"
        " gives slots their tokens, or the model has an encoder",
    )
    parts = []
    documents = 0
    for batch in batches:
        real_BT = np.asarray(batch.segment_BT) > 0
        schema.require(bool(real_BT.any()), "a batch has no token: give batches of text")
        placed = sharding.shard_batch(batch)
        found = _choices(trained.model, trained.params, trained.router_state, placed)
        predicted_BT, expert_LBTK, gate_LBTK = jax.tree.map(np.asarray, found)
        number_BT = _numbered(np.asarray(batch.segment_BT), documents)
        documents = int(number_BT.max()) + 1
        rows = (
            *(batch.tokens_BT, batch.targets_BT, predicted_BT, number_BT),
            *(batch.position_BT, batch.domain_BT),
        )
        flat = dict(zip(Traces._fields, (np.asarray(x_BT)[real_BT] for x_BT in rows), strict=False))
        made = Traces(**flat, expert_LNK=expert_LBTK[:, real_BT], gate_LNK=gate_LBTK[:, real_BT])
        parts.append(made)
    schema.require(len(parts) > 0, "no token to look at: give batches of text")
    return _joined(parts)


@functools.partial(jax.jit, static_argnums=0)
def _choices(model, params, router_state, batch):
    """(predicted_BT, expert_LBTK, gate_LBTK)."""
    built = models.build(model)
    output = built.apply(params, router_state, batch, key=jax.random.key(0), train=False)
    (record,) = output.by_stack
    B, T = batch.tokens_BT.shape
    join = jax.vmap(lambda x_GSK: groups.join(x_GSK, B, T))
    chosen = record.assignment
    assert chosen is not None  # tokens choose
    return output.logits.argmax(-1), join(chosen.expert_GSK), join(chosen.gate_GSK)


def _numbered(segment_BT, first):
    """A number for each document of each row."""
    rows = np.arange(len(segment_BT))[:, None]
    keys = rows * (int(segment_BT.max()) + 1) + segment_BT
    numbers = np.unique(keys, return_inverse=True)[1]
    return first + numbers.reshape(segment_BT.shape)


def _joined(parts):
    """The traces of all batches as one."""
    found = {}
    for name in Traces._fields:
        axis = 1 if name.endswith("LNK") else 0
        found[name] = np.concatenate([getattr(part, name) for part in parts], axis=axis)
    return Traces(**found)
