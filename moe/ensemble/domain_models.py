"""What models of one domain each, mixed in several ways, say of the text of every domain.

Arrays are of the host: N models, X rows of T tokens.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from moe import objectives, sharding
from moe.adapt.banks import Trained
from moe.batch import Batch
from moe.ensemble import posterior
from moe.evaluation import held_out


class Scored(NamedTuple):
    """Rows of text, and what every model says of them."""

    logp_NXT: np.ndarray  # 0 where nothing counts
    segment_XT: np.ndarray

    @property
    def number(self) -> int:
        """Of models."""
        return len(self.logp_NXT)


def labelled(batches: list[Batch], domain: int) -> list[Batch]:
    """The text with a domain's label at every token."""
    return [one._replace(domain_BT=np.full_like(one.tokens_BT, domain)) for one in batches]


def scored(models: Iterable[Trained], batches: list[Batch], label: bool = False) -> Scored:
    """What each model says of each target.

    Args:
      models: of one domain each, in the order of the domains.
      batches: of host arrays.
      label: each model is told that the text is of its own domain, as DEMix's experts are.
    """
    found = [
        list(_rows(one, labelled(batches, n) if label else batches)) for n, one in enumerate(models)
    ]
    logp_NXT = np.stack([np.concatenate(rows) for rows in found])
    return Scored(logp_NXT, np.concatenate([batch.segment_BT for batch in batches]))


def _rows(model, batches) -> Iterator[np.ndarray]:
    eval_step = held_out.eval_step_of(objectives.task(model.model, None))
    for index, batch in enumerate(batches):
        output = eval_step(model, sharding.shard_batch(batch), jnp.int32(index))
        yield -np.asarray(output.nll)


def nats(logp_XT: np.ndarray, segment_XT: np.ndarray) -> float:
    """The mean loss of real tokens."""
    return float(-logp_XT[segment_XT > 0].mean())


def with_prior(text: Scored, prior_N: np.ndarray) -> float:
    """The loss of all models together, each document beginning with this prior."""
    before_NXT = posterior.before(text.logp_NXT, text.segment_XT, np.asarray(prior_N)[:, None])
    return nats(np.asarray(posterior.mixed(text.logp_NXT, before_NXT)), text.segment_XT)


def updating(text: Scored) -> float:
    """The loss where a row's prior comes from the rows before it, which are of one kind."""
    prior_N = posterior.uniform(text.number)
    priors = []
    for posterior_N in posteriors(text):
        priors.append(prior_N)
        prior_N = posterior.updated(prior_N, posterior_N)
    before_NXT = posterior.before(text.logp_NXT, text.segment_XT, np.stack(priors, axis=1))
    return nats(np.asarray(posterior.mixed(text.logp_NXT, before_NXT)), text.segment_XT)


def cached(text: Scored) -> np.ndarray:
    """p(d) of text of one kind, from some of it."""
    return posterior.cached(posteriors(text))


def posteriors(text: Scored) -> np.ndarray:
    """p(d | row) from a uniform prior, [X, N]; all documents of a row count."""
    return posterior.after(text.logp_NXT.sum(-1), posterior.uniform(text.number))
