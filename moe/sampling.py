"""Which token comes next: the most probable, or one drawn from what is left of the distribution."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from moe.schema import require


class Sampling(NamedTuple):
    """How a token is drawn, in this order; static under jit."""

    temperature: float = 1.0  # of softmax(logits / temperature); 0: the most probable token
    top_k: int = 0  # only from so many most probable tokens (Fan et al. 2018); 0: from all
    # Only from the fewest tokens that have this probability together (Holtzman et al. 2020).
    top_p: float = 1.0
    min_p: float = 0.0  # only from tokens of this share of the largest probability (Nguyen 2024)

    def check(self) -> None:
        """Refuses what is no way to draw, and limits that do nothing.

        Raises:
          UserError: with the field.
        """
        require(self.temperature >= 0, f"{self.temperature=} must be 0 or more")
        require(self.top_k >= 0, f"{self.top_k=} must be 0 (all tokens) or more")
        require(0 < self.top_p <= 1, f"{self.top_p=} must be above 0 and at most 1 (all tokens)")
        require(0 <= self.min_p <= 1, f"{self.min_p=} must be between 0 (all tokens) and 1")
        limits = self._replace(temperature=1.0)
        require(
            self.temperature > 0 or limits == Sampling(),
            f"temperature=0 takes the most probable token, so {limits.top_k=}, {limits.top_p=} and"
            f" {limits.min_p=} do nothing: leave them out, or raise the temperature",
        )


GREEDY = Sampling(temperature=0.0)


def sample(logits_BV: jax.Array, how: Sampling, key: jax.Array) -> jax.Array:
    """token_B."""
    if how.temperature == 0:
        return logits_BV.argmax(-1)
    return jax.random.categorical(key, limited(logits_BV / how.temperature, how))


def limited(logits_BV: jax.Array, how: Sampling) -> jax.Array:
    """The logits of the tokens that may be drawn, -inf of the others.

    The most probable one is always among them; of equals at a limit all are.
    """
    if how.top_k and how.top_k < logits_BV.shape[-1]:
        least_B1 = jax.lax.top_k(logits_BV, how.top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)
    if how.top_p < 1:
        logits_BV = _nucleus(logits_BV, how.top_p)
    if how.min_p > 0:
        p_BV = jax.nn.softmax(logits_BV)
        enough_BV = p_BV >= how.min_p * p_BV.max(-1, keepdims=True)
        logits_BV = jnp.where(enough_BV, logits_BV, -jnp.inf)
    return logits_BV


def _nucleus(logits_BV, top_p):
    """Those that are needed to reach it: before each of them less is together."""
    sorted_BV = -jnp.sort(-logits_BV, axis=-1)
    p_BV = jax.nn.softmax(sorted_BV)
    before_BV = jnp.cumsum(p_BV, axis=-1) - p_BV
    needed_BV = jnp.where(before_BV < top_p, sorted_BV, jnp.inf)
    return jnp.where(logits_BV >= needed_BV.min(-1, keepdims=True), logits_BV, -jnp.inf)
