"""Which domain a text is of, by Bayes' rule over models of one domain each.

DEMix (Gururangan et al. 2022, section 5) and Branch-Train-Merge (Li et al. 2022, section 3.3): with
p(x_t | x_<t, d) of every domain's model and a prior p(d),

    p(d | x_<t)   is proportional to  p(d) prod_{s<t} p(x_s | x_<s, d),
    p(x_t | x_<t) = sum_d p(d | x_<t) p(x_t | x_<t, d).

So a token's own probability does not weigh the models that give it. A document begins with the
prior anew. Letters of this file: N domains, B rows, T tokens; logarithms are natural.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

DECAY = 0.3  # of the updating prior


def before(logp_NBT: ArrayLike, segment_BT: ArrayLike, prior_NB: ArrayLike) -> jax.Array:
    """log p(d | x_<t), [N, B, T]: what is known of the domain before each token.

    Args:
      logp_NBT: of every token by every domain's model.
      segment_BT: documents, as of `Batch`.
      prior_NB: p(d) of each row, [N, B], or [N, 1] for one of all; positive or zero.
    """
    logp_NBT, segment_BT, prior_NB = map(jnp.asarray, (logp_NBT, segment_BT, prior_NB))
    begins_BT = segment_BT != jnp.pad(segment_BT, ((0, 0), (1, 0)))[:, :-1]
    real_BT = segment_BT > 0
    last_NBT = jnp.pad(jnp.where(real_BT, logp_NBT, 0.0), ((0, 0), (0, 0), (1, 0)))[..., :-1]
    sum_NBT = jnp.cumsum(last_NBT, axis=-1)  # of all tokens before, in the row
    since_NBT = sum_NBT - _held(sum_NBT, begins_BT)
    return jax.nn.log_softmax(jnp.log(prior_NB)[..., None] + since_NBT, axis=0)


def _held(x_NBT, begins_BT):
    """The value of x at the beginning of each token's document."""
    T = begins_BT.shape[1]
    place_BT = jax.lax.cummax(jnp.where(begins_BT, jnp.arange(T), 0), axis=1)
    return jnp.take_along_axis(x_NBT, place_BT[None], axis=-1)


def mixed(logp_NBT: ArrayLike, before_NBT: ArrayLike) -> jax.Array:
    """log p(x_t | x_<t) of all models together, [B, T].

    Args:
      logp_NBT: of every token by every domain's model.
      before_NBT: of `before`, or any log weights that sum to 1 over N.
    """
    return jax.nn.logsumexp(jnp.asarray(logp_NBT) + before_NBT, axis=0)


def after(logp_NX: np.ndarray, prior_N: np.ndarray) -> np.ndarray:
    """p(d | x) of whole texts, [X, N].

    Args:
      logp_NX: of each text by each model.
      prior_N: p(d).
    """
    log_NX = np.log(prior_N)[:, None] + logp_NX
    return np.exp(log_NX - np.logaddexp.reduce(log_NX, axis=0)).T


def uniform(number: int) -> np.ndarray:
    """p(d) of so many domains of which nothing is known."""
    return np.full(number, 1 / number)


def cached(posterior_XN: np.ndarray) -> np.ndarray:
    """p(d) from texts of a kind, seen before: the mean of their posteriors (DEMix, "cached").

    Args:
      posterior_XN: of `after`, by text.
    """
    return posterior_XN.mean(0)


def updated(prior_N: np.ndarray, posterior_N: np.ndarray, decay: float = DECAY) -> np.ndarray:
    """p(d) after one text more of a stream of one kind (DEMix, "updating").

    A moving average, so that domains that were never likely keep some of the first prior.
    """
    return (1 - decay) * prior_N + decay * posterior_N
