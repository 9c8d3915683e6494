"""What a router is: the one contract that every file of this folder fills in.

A router is one pure function, `route(inputs, settings) -> RouterOutput`: what it may read of a
group's tokens, and who goes where. All else that the layer, the config, the loss and the tests
must know of it stands in its `Router`, at the end of its file.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from moe import sharding
from moe.errors import UserError
from moe.routing import assignment

if TYPE_CHECKING:  # `stats` reads this contract
    from moe.routing.stats import RouterStats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a router that has none; those of the others derive from it."""

    @property
    def causal(self) -> str | None:
        """What `Router.causal` is with these options; None if they do not change it."""
        return None

    @classmethod
    def unknown(cls, fields: Iterable[str]) -> str:
        """What to say of an option that this router does not have."""
        return (
            f"the router asked for has {', '.join(fields) or 'no options'}. Options go with their"
            " router: name it after the colon, as in configs/train.py:gshard"
        )


class Experts(Protocol):
    """What a router may read of the experts' config, `moe.config.MoEConfig`."""

    @property
    def num_experts(self) -> int:
        """E."""

    @property
    def k(self) -> int:
        """K."""

    @property
    def group_size(self) -> int:
        """S, or 0 for one sequence."""

    @property
    def capacity_factor(self) -> float:
        """Of training."""

    @property
    def eval_capacity_factor(self) -> float:
        """Of evaluation."""

    @property
    def options(self) -> Any:
        """Of `Router.options`."""


class Model(Protocol):
    """What a router may read of the model's config when it makes its state."""

    @property
    def vocab_size(self) -> int:
        """V."""

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""

    @property
    def experts(self) -> Any:
        """See `Experts`."""


class RouterInputs(NamedTuple):
    """What a router may read of its tokens; of groups, sequences or documents it knows no more.

    What it draws, it draws with `out_sharding=sharding.out_sharding("GSE")` (or the letters of the
    array), so that a mesh draws the same; `assignment.largest` and `sharding.map_groups` keep
    groups apart.
    """

    logits: dict[str, jax.Array]  # float32 [G, S, columns], one for each of `Router.projections`
    mask_GS: jax.Array  # True for real tokens
    ids_GS: jax.Array | None = None  # token ids
    domain_GS: jax.Array | None = None  # where a token's document comes from
    key: jax.Array | None = None  # for what it draws
    state: Mapping[str, jax.Array] = {}  # of `Router.state`, of this layer
    replayed: jax.Array | None = None  # expert_GSK to replay, its gates computed anew
    document_GS: jax.Array | None = None  # a number for each document of a group
    carried: Mapping[str, jax.Array] = {}  # in decoding, of `Router.carried`, [G, ...]

    def need(self, field: str) -> jax.Array:
        """A field that may be None, for a router that cannot do without it.

        Raises:
          UserError: with what to pass to the layer.
        """
        value = getattr(self, field)
        if value is None:
            given = {
                "key": "rngs={'router': key}, in init and in apply",
                "ids_GS": "ids_BT",
                "domain_GS": "domain_BT",
                "document_GS": "segment_BT",
            }
            raise UserError(f"this router needs {given[field]}: pass it to the MoE layer")
        return value

    def held(self, name: str) -> jax.Array:
        """One of the arrays of `Router.state`, of this layer.

        Raises:
          UserError: with what to pass to the layer.
        """
        if name not in self.state:
            raise UserError(
                f"this router keeps {name!r} in the collection 'router_state': pass it to init and"
                " apply beside 'params', see docs/routers.md"
            )
        return self.state[name]

    def chosen(self, choose: Callable[[], jax.Array]) -> jax.Array:
        """expert_GSK: the choices to replay if there are any, else choose().

        Every router in which tokens choose goes through it; expert E is "no expert", for a token
        that uses fewer than K.
        """
        return choose() if self.replayed is None else self.replayed


class RouterSettings(NamedTuple):
    """What is known before any array is; static under jit."""

    num_experts: int
    k: int
    slots: int  # C
    train: bool
    options: Any  # of `Router.options`


class Policy(NamedTuple):
    """What a router that learns from reward says of each real token, 0 at padding."""

    log_p_GS: jax.Array  # of the expert it drew
    baseline_GS: jax.Array  # the reward it expects


class RouterOutput(NamedTuple):
    """Who goes where, and what its losses and statistics are made of."""

    assignment: assignment.TopKAssignment | assignment.Slots | assignment.DispatchMasks
    p_GSE: jax.Array | None = None  # the router's probabilities
    logits_GSE: jax.Array | None = None  # whose logsumexp is to stay small
    requested: jax.Array | None = None  # expert_GSK before anybody moved on; None: nobody did
    priority_GS: jax.Array | None = None  # tokens get their slots by it; None: by position
    sums: Mapping[str, jax.Array] = {}  # over real tokens, for losses of its own
    policy: Policy | None = None
    carried: Mapping[str, jax.Array] = {}  # as of `RouterInputs`, after these tokens


def one_projection(config: Experts) -> dict[str, int]:
    """A score for every expert."""
    return {"router": config.num_experts}


def no_projection(config: Experts) -> dict[str, int]:
    """A router that learns nothing."""
    del config
    return {}


def k_experts(config: Experts) -> int:
    """As many as every token chooses."""
    return config.k


class Router(NamedTuple):
    """One line of `ROUTERS`."""

    route: Callable[[RouterInputs, RouterSettings], RouterOutput]
    kind: type = assignment.TopKAssignment
    options: type = Options
    common: Mapping[str, float] = {}  # the options of all routers that do something here: defaults
    # When no token's expert depends on later tokens: "always"; in "evaluation", as of a router that
    # balances a whole group in training and is greedy after; "never".
    causal: str = "always"
    # The router's matrices of weights [D, columns]: name -> columns.
    projections: Callable[[Experts], dict[str, int]] = one_projection
    # Losses made of its statistics, each weighted by the option <name>_weight.
    losses: Mapping[str, Callable[["RouterStats"], jax.Array]] = {}
    # (model, seed, ids of the training text) -> what it holds beside weights, arrays [layers, ...].
    state: Callable[[Model, int, np.ndarray | None], dict[str, np.ndarray]] | None = None
    # (state, router_stats, options) -> the state after a training step.
    update: Callable[[dict, Any, Any], dict] | None = None
    # What decoding keeps of a row's earlier tokens: shapes without G.
    carried: Callable[[Experts], dict[str, jax.ShapeDtypeStruct]] | None = None
    reads_ids: bool = False
    # How many domains it knows; None if it reads none.
    domains: Callable[[Experts], int] | None = None
    # Upper bound on the mean number of routed experts per token, for FLOPs and active parameters.
    experts_per_token: Callable[[Experts], float] = k_experts
    detached: tuple[str, ...] = ()  # matrices whose gradient stops at the router's input
    # Raise UserError for a config that the router cannot serve, or whose options do nothing.
    check: Callable[[Experts], None] | None = None
    idle: Callable[[Experts], None] | None = None

    @property
    def learned(self) -> bool:
        """Does it own weights?"""
        return self.projections is not no_projection


def choice(
    inputs: RouterInputs, settings: RouterSettings, expert_GSK: jax.Array, gate_GSK: jax.Array
) -> assignment.TopKAssignment:
    """Tokens choose; padding goes to the expert that does not exist, whose gate is 0."""
    mask_GS1 = inputs.mask_GS[..., None]
    expert_GSK = jnp.where(mask_GS1, expert_GSK, settings.num_experts).astype(jnp.int32)
    return assignment.TopKAssignment(
        expert_GSK, jnp.where(expert_GSK < settings.num_experts, gate_GSK, 0.0)
    )


def pick(x_GSE: jax.Array, expert_GSK: jax.Array) -> jax.Array:
    """x of each token's experts, [G, S, K]; 0 for the expert that does not exist."""

    def take(x_GSE: jax.Array, expert_GSK: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_GSE, expert_GSK, axis=-1, mode="fill", fill_value=0)

    return sharding.map_groups(take)(x_GSE, expert_GSK)


def gates(
    affinity_GSE: jax.Array,
    log_affinity_GSE: jax.Array,
    expert_GSK: jax.Array,
    normalise: bool | None = None,
) -> jax.Array:
    """Gates that sum to 1 over a token's experts, and a single gate as it is.

    Renormalised it would always be 1, and the router would get no gradient from the task.

    Args:
      affinity_GSE: what a single gate is.
      log_affinity_GSE: its logarithm, up to a number for each token; the sum of the affinities
        themselves may have underflowed to 0.
      normalise: whether they sum to 1; None: if K > 1.
    """
    if normalise is None:
        normalise = expert_GSK.shape[-1] > 1
    if not normalise:
        return pick(affinity_GSE, expert_GSK)
    exists_GSK = expert_GSK < log_affinity_GSE.shape[-1]
    return softmax_of(pick(log_affinity_GSE, expert_GSK), exists_GSK)


def softmax_of(log_score_GSK: jax.Array, exists_GSK: jax.Array) -> jax.Array:
    """A softmax over those that exist. Where none does it is finite, as its gradient is."""
    lowest = jnp.finfo(log_score_GSK.dtype).min
    return jax.nn.softmax(jnp.where(exists_GSK, log_score_GSK, lowest))


def no_choice(inputs: RouterInputs) -> jax.Array:
    """Zeros [G, S, 1], laid out as choices are."""
    return jnp.zeros_like(inputs.mask_GS, jnp.int32)[..., None]
