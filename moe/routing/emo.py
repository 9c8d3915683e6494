"""Document-pooled routing (EMO; arXiv 2605.06663): a document's tokens share one pool of experts.

p = softmax(s). Summed over a document's tokens, p says which P experts are its pool; a token goes
to the K most probable experts in the pool, with gates of its own p over all experts. In training P
is drawn for each document, uniform from `least` to `most`; in evaluation it is their mean, rounded
down. Experts then follow what documents are about. Balance is asked of the whole batch, as ever.

A document is what lies of it in one group. Its pool looks at later tokens: not causal. With
pool="running" the sum is over the document so far, the token itself included, so that every token
has a pool of its own, causal; P stays that of the document. In decoding the sum is carried on.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from moe import schema, sharding
from moe.routing import assignment, contract, top_k

POOLS = ("document", "running")


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """What a pool is."""

    pool: str = "document"  # or "running": what its scores are summed over
    least: int = 0  # experts of a pool; 0: K
    most: int = 0  # 0: E
    normalise_gates: bool | None = None  # see `ranked.Options`

    @property
    def causal(self) -> str | None:
        """A running sum knows no later token."""
        return "always" if self.pool == "running" else None


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token to the K best experts of its document's pool."""
    logits_GSE = inputs.logits["router"]
    p_GSE = jax.nn.softmax(logits_GSE)
    pooled_GSE, carried = _pooled(inputs, settings, p_GSE)
    place_GSE = jnp.argsort(jnp.argsort(-pooled_GSE, axis=-1), axis=-1)
    open_GSE = place_GSE < _sizes(inputs, settings)
    expert_GSK = inputs.chosen(
        lambda: assignment.largest(jnp.where(open_GSE, p_GSE, -1.0), settings.k)[1]
    )
    gate_GSK = contract.gates(p_GSE, logits_GSE, expert_GSK, settings.options.normalise_gates)
    choice = contract.choice(inputs, settings, expert_GSK, gate_GSK)
    return contract.RouterOutput(choice, p_GSE, logits_GSE, carried=carried)


def limits(options: Options, k: int, experts: int) -> tuple[int, int]:
    """The smallest and the largest pool."""
    return options.least or k, options.most or experts


def _sizes(inputs, settings):
    """P of every token's document, [G, S, 1], or one of all."""
    least, most = limits(settings.options, settings.k, settings.num_experts)
    if not settings.train or least == most:
        return (least + most) // 2
    document_GS = inputs.need("document_GS")
    layout = sharding.out_sharding("GS")
    drawn_GS = jax.random.randint(
        inputs.need("key"), document_GS.shape, least, most + 1, out_sharding=layout
    )
    return sharding.map_groups(jax.vmap(of_first))(drawn_GS, document_GS)[..., None]


def _pooled(inputs, settings, p_GSE):
    """What pools are chosen by, [G, S, E], and what is carried on in decoding."""
    document_GS = inputs.need("document_GS")
    p_GSE = jax.lax.stop_gradient(jnp.where(inputs.mask_GS[..., None], p_GSE, 0.0))
    if settings.options.pool == "document":
        return sharding.map_groups(jax.vmap(totals))(p_GSE, document_GS), {}
    sum_GSE = sharding.map_groups(jax.vmap(running))(p_GSE, document_GS)
    if not inputs.carried:
        return sum_GSE, {}
    goes_on_GS = document_GS == inputs.carried["document"][:, None]
    sum_GSE += jnp.where(goes_on_GS[..., None], inputs.carried["sum"][:, None], 0.0)
    return sum_GSE, {"sum": sum_GSE[:, -1], "document": document_GS[:, -1]}


@jax.jit
def running(x_SE: jax.Array, document_S: jax.Array) -> jax.Array:
    """The sum over the tokens of a token's document up to itself, [S, E].

    No token of another document is added and taken away again, so none changes a bit.
    """
    order_S = jnp.argsort(document_S, stable=True)
    sorted_S = document_S[order_S]
    starts_S1 = jnp.concatenate([jnp.ones(1, bool), sorted_S[1:] != sorted_S[:-1]])[:, None]

    def add(before: tuple, after: tuple) -> tuple:
        starts, x = after
        return before[0] | starts, jnp.where(starts, x, before[1] + x)

    _, sum_SE = jax.lax.associative_scan(add, (starts_S1, x_SE[order_S]))
    return jnp.zeros_like(sum_SE).at[order_S].set(sum_SE, unique_indices=True)


@jax.jit
def totals(x_SE: jax.Array, document_S: jax.Array) -> jax.Array:
    """The sum over all tokens of a token's document, [S, E]."""
    order_S = jnp.argsort(document_S, stable=True)
    last_S = order_S[jnp.searchsorted(document_S[order_S], document_S, side="right") - 1]
    return running(x_SE, document_S)[last_S]


@jax.jit
def of_first(x_S: jax.Array, document_S: jax.Array) -> jax.Array:
    """The value of the first token of a token's document, [S]."""
    order_S = jnp.argsort(document_S, stable=True)
    return x_S[order_S[jnp.searchsorted(document_S[order_S], document_S)]]


def carried(config: contract.Experts) -> dict[str, jax.ShapeDtypeStruct]:
    """In decoding: the sum of a row's present document, and its number."""
    if config.options.pool == "document":
        return {}
    shape: Any = jax.ShapeDtypeStruct
    return {
        "sum": shape((config.num_experts,), jnp.float32),
        "document": shape((), jnp.int32),
    }


def check(config: contract.Experts) -> None:
    """Refuses pools that there cannot be."""
    o = config.options
    schema.one_of("experts.options.pool", o.pool, POOLS)
    least, most = limits(o, config.k, config.num_experts)
    schema.require(
        config.k <= least <= most <= config.num_experts,
        f"experts.options: a pool of {least} to {most} experts: least and most must lie between"
        f" k={config.k} and num_experts={config.num_experts}, least not above most",
    )


def idle(config: contract.Experts) -> None:
    """Refuses pools that leave nobody out."""
    least, _ = limits(config.options, config.k, config.num_experts)
    schema.require(
        least < config.num_experts,
        f"experts.options.least={least} opens all num_experts={config.num_experts} to every"
        " document: lower it, or use experts.router='top_k'",
    )


ROUTER = contract.Router(
    route,
    options=Options,
    common=top_k.LEARNED,
    causal="never",
    losses=top_k.LOSSES,
    carried=carried,
    check=check,
    idle=idle,
)
