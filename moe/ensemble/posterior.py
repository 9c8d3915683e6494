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

DECAY = 0.3  # of the updating prior


def before(logp_NBT: jax.Array, segment_BT: jax.Array, prior_N: jax.Array) -> jax.Array:
    """log p(d | x_<t), [N, B, T]: what is known of the domain before each token.

    Args:
      logp_NBT: of every token by every domain's model.
      segment_BT: documents, as of `Batch`.
      prior_N: p(d), positive or zero.
    """
    begins_BT = segment_BT != jnp.pad(segment_BT, ((0, 0), (1, 0)))[:, :-1]
    real_BT = segment_BT > 0
    last_NBT = jnp.pad(jnp.where(real_BT, logp_NBT, 0.0), ((0, 0), (0, 0), (1, 0)))[..., :-1]
    sum_NBT = jnp.cumsum(last_NBT, axis=-1)  # of all tokens before, in the row
    since_NBT = sum_NBT - _held(sum_NBT, begins_BT)
    return jax.nn.log_softmax(jnp.log(prior_N)[:, None, None] + since_NBT, axis=0)


def _held(x_NBT, begins_BT):
    """The value of x at the beginning of each token's document."""
    T = begins_BT.shape[1]
    place_BT = jax.lax.cummax(jnp.where(begins_BT, jnp.arange(T), 0), axis=1)
    return jnp.take_along_axis(x_NBT, place_BT[None], axis=-1)


def mixed(logp_NBT: jax.Array, before_NBT: jax.Array) -> jax.Array:
    """log p(x_t | x_<t) of all models together, [B, T].

    Args:
      logp_NBT: of every token by every domain's model.
      before_NBT: of `before`, or any log weights that sum to 1 over N.
    """
    return jax.nn.logsumexp(logp_NBT + before_NBT, axis=0)


def after(logp_NT: jax.Array, prior_N: jax.Array) -> jax.Array:
    """p(d | x) of one whole text, [N]."""
    return jax.nn.softmax(jnp.log(prior_N) + logp_NT.sum(-1))


def uniform(number: int) -> jax.Array:
    """p(d) of so many domains of which nothing is known."""
    return jnp.full(number, 1 / number)


def cached(posterior_XN: jax.Array) -> jax.Array:
    """p(d) from texts of a kind, seen before: the mean of their posteriors (DEMix, "cached").

    Args:
      posterior_XN: of `after`, by text.
    """
    return posterior_XN.mean(0)


def updated(prior_N: jax.Array, posterior_N: jax.Array, decay: float = DECAY) -> jax.Array:
    """p(d) after one text more of a stream of one kind (DEMix, "updating").

    A moving average, so that domains that were never likely keep some of the first prior.
    """
    return (1 - decay) * prior_N + decay * posterior_N
