"""The configurations of a model and of its experts."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe import dispatch, ffn, ranges, routing
from moe.attention_config import AttentionConfig
from moe.routing import assignment, contract
from moe.schema import one_of, require

DTYPES = ("float32", "bfloat16")


# What several routers understand; None is the router's own default (`Router.common`).
COMMON = ("jitter", "balance_weight", "z_weight", "router_scale")


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """The experts of every MoE layer and how tokens reach them."""

    num_experts: int
    d_ff: int  # hidden width of one expert
    k: int = 1
    router: str = "top_k"
    options: contract.Options | None = None  # what only this router has; None: its defaults
    jitter: float | None = None  # the router's input is multiplied by U(1 - jitter, 1 + jitter)
    balance_weight: float | None = None
    z_weight: float | None = None
    router_scale: float | None = None  # variance of a router's initial weights, over D
    # Of the router's product and its scores; float32 is Switch's "selective precision" (2.4).
    router_dtype: str = "float32"
    dispatcher: str = "gather"
    group_size: int = 0  # tokens that compete for the same slots; 0 is one sequence
    capacity_factor: float = 1.25  # 0 for the grouped dispatcher, which drops nothing
    eval_capacity_factor: float = 2.0
    # C itself, whatever a group's size; the factors are then 0. Released Switch models have it.
    expert_capacity: int = 0
    # In decoding, of `decoding.dropless`: an expert takes so many choices of a text; 0: all.
    seats: int = 0
    shared_experts: int = 0  # experts that see every token, beside the routed ones
    expert_dropout: float = 0.0  # of the experts' hidden units

    @classmethod
    def types(cls, given: Mapping) -> dict[str, Any]:
        """Fields whose type depends on other fields: the options are those of the router."""
        router = given.get("router", cls.router)
        one_of("experts.router", router, routing.ROUTERS)
        return {"options": routing.ROUTERS[router].options | None}

    def __post_init__(self) -> None:
        self.check()
        self.refuse_idle()

    def check(self) -> None:
        """Puts the router's defaults where nothing was given, and refuses what cannot be."""
        one_of("experts.router", self.router, routing.ROUTERS)
        one_of("experts.dispatcher", self.dispatcher, dispatch.DISPATCHERS)
        one_of("experts.router_dtype", self.router_dtype, ("float32", "bfloat16"))
        self._complete()
        ranges.check(self, "experts", ranges.EXPERTS)
        ranges.check(self.options, "experts.options", ranges.OPTIONS)
        if not self.dropless:
            self._check_capacity()
        require(
            self.k <= self.num_experts, f"experts.k={self.k} exceeds num_experts={self.num_experts}"
        )
        kind = self.routing.kind
        dispatcher = dispatch.DISPATCHERS[self.dispatcher]
        require(
            kind in dispatcher.KINDS,
            f"experts.dispatcher={self.dispatcher!r} cannot carry the {kind.__name__} of the"
            f" {self.router!r} router: use one of"
            f" {', '.join(n for n, d in dispatch.DISPATCHERS.items() if kind in d.KINDS)}",
        )
        if self.routing.check:
            self.routing.check(self)

    def refuse_idle(self) -> None:
        """Refuses settings that do nothing: whoever wrote them expects something of them."""
        for name in COMMON:
            require(
                name in self.routing.common or not getattr(self, name),
                f"experts.{name}={getattr(self, name)} does nothing with the {self.router!r}"
                " router: set it to 0, or leave it out",
            )
        require(
            self.routing.learned or self.router_dtype == "float32",
            f"experts.router_dtype={self.router_dtype!r} does nothing with the {self.router!r}"
            " router, which computes no scores: leave it out",
        )
        require(not self.seats, f"experts.seats={self.seats} is for decoding alone: leave it out")
        if self.dropless:
            self._refuse_capacity()
        if self.routing.idle:
            self.routing.idle(self)

    def derived(self, **changes: Any) -> "MoEConfig":
        """A copy with changes that the code makes, not a user.

        What cannot be is refused as ever. But a setting of the user's may now do nothing, which is
        no fault of theirs.
        """
        config = copy.copy(self)
        for name, value in changes.items():
            object.__setattr__(config, name, value)
        config.check()
        return config

    def _check_capacity(self):
        """Either both factors, or a number of slots."""
        for name in ("capacity_factor", "eval_capacity_factor"):
            found = getattr(self, name)
            if self.expert_capacity:
                require(
                    found == 0,
                    f"experts.{name}={found} does nothing with experts.expert_capacity="
                    f"{self.expert_capacity}: set one of them to 0",
                )
            else:
                require(found > 0, f"experts.{name}={found} must be above 0: raise it")

    def _refuse_capacity(self):
        """Refuses what does nothing without slots."""
        own = ("capacity_factor", "eval_capacity_factor", "expert_capacity", "expert_dropout")
        found = {f"experts.{name}": getattr(self, name) for name in own}
        for name in ("reroute_rounds", "batch_priority"):
            found[f"experts.options.{name}"] = getattr(self.options, name, 0)
        if self.causal == "always":  # the others choose inside a group
            found["experts.group_size"] = self.group_size
        for name, value in found.items():
            require(
                not value,
                f"{name}={value} does nothing with experts.dispatcher='grouped', which has no"
                " slots: set it to 0, or use another dispatcher",
            )

    def _complete(self):
        """Puts the router's defaults where nothing was given."""
        router = self.routing
        if self.options is None:
            object.__setattr__(self, "options", router.options())
        require(
            type(self.options) is router.options,
            f"experts.options={self.options} are not those of the {self.router!r} router",
        )
        require(
            not router.learned or "router_scale" in router.common,
            f"the {self.router!r} router has weights (`Router.projections`), which would start at"
            " zero and send every token to expert 0: put router_scale into its"
            " `common`, as moe.routing.top_k.LEARNED does",
        )
        for name in COMMON:
            if getattr(self, name) is None:
                object.__setattr__(self, name, router.common.get(name, 0.0))

    @property
    def routing(self) -> contract.Router:
        """The router."""
        return routing.ROUTERS[self.router]

    @property
    def causal(self) -> str:
        """When no token's expert depends on later ones: always, evaluation or never."""
        assert self.options is not None  # the router's own are put there
        return self.options.causal or self.routing.causal

    def weight(self, loss: str) -> float:
        """The weight of one of the router's losses."""
        name = f"{loss}_weight"
        return getattr(self, name) if name in COMMON else getattr(self.options, name)

    def factor(self, train: bool) -> float:
        """The capacity factor in training or in evaluation."""
        return self.capacity_factor if train else self.eval_capacity_factor

    @property
    def dropless(self) -> bool:
        """Is every choice computed?"""
        return self.dispatcher == "grouped"

    def slots(self, tokens: int, train: bool) -> int:
        """C of a group; without capacity as many as could ever be filled."""
        if self.dropless:
            return tokens
        if self.expert_capacity:
            return min(self.expert_capacity, tokens * self.k)
        return assignment.capacity(self.factor(train), tokens, self.k, self.num_experts)

    def tokens_per_group(self, length: int) -> int:
        """S for sequences of T tokens."""
        return self.group_size or length


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder; without `moe` it is the dense baseline."""

    vocab_size: int
    num_layers: int
    moe_every: int = 2  # layers are scanned in blocks of this many; the last of each is MoE
    num_dense_layers: int = 0  # of num_layers, before the first block
    d_model: int
    num_heads: int
    num_kv_heads: int = 0  # grouped-query attention; 0 is num_heads
    d_head: int
    d_ff: int  # hidden width of a dense feed-forward, of the dense twin if all layers are MoE
    activation: str = "gelu"  # of experts, and of dense feed-forwards unless dense_activation
    dense_activation: str = ""  # GLaM: gated dense layers beside plain experts
    position: str = "rotary"
    attention: AttentionConfig = AttentionConfig()
    norm_epsilon: float = 1e-6  # RMSNorm adds it to the mean square
    scale_embedding: bool = True  # embeddings are multiplied by sqrt(d_model)
    tie_embeddings: bool = True  # the head's weights are the embedding's
    ngram_rows: int = 0  # of each table of hashed n-gram embeddings, see `moe.layers.ngrams`
    init_scale: float = 1.0
    dtype: str = "bfloat16"  # of the arithmetic; parameters, router and loss are float32
    remat: bool = False  # recompute each block in the backward pass
    scan_unroll: int = 0  # blocks in a turn of the scan; 0 is what suits the machine
    causal: bool = True  # attention sees no later token
    mask_embedding: bool = False  # has a vector for masked tokens
    allow_noncausal: bool = False  # a router that sees later tokens, though the model predicts them
    experts: MoEConfig | None = None
    patch_width = 0  # no field: numbers in a patch of the images that it reads; 0: it reads ids

    def __post_init__(self) -> None:
        ranges.check(self, "model", ranges.IMAGES if self.patch_width else ranges.MODEL)
        one_of("model.activation", self.activation, ffn.ACTIVATIONS)
        one_of("model.dense_activation", self.dense_activation, ("", *ffn.ACTIVATIONS))
        known = ("none",) if self.patch_width else ("rotary", "relative")
        one_of("model.position", self.position, known)
        one_of("model.dtype", self.dtype, DTYPES)
        require(
            self.d_head % 2 == 0 or self.position != "rotary",
            f"model.d_head={self.d_head} must be even for rotary positions",
        )
        require(
            self.experts is None
            or self.experts.causal == "always"
            or not self.causal
            or self.allow_noncausal,
            f"experts.router={self.experts and self.experts.router!r} is not causal: it looks at"
            " later tokens, which a decoder does not have when it generates"
            f" ({_causal_when(self.experts)}). Choose a causal one, set model.causal=False and"
            " learn masked tokens instead, or model.allow_noncausal=True if you know what its loss"
            " means",
        )
        require(
            not self.dense_activation or self.dense_layers > 0,
            f"model.dense_activation={self.dense_activation!r} does nothing when every layer is"
            " MoE: use moe_every=2 or more, or leave it empty",
        )
        require(
            not (self.mask_embedding and self.experts and self.experts.routing.reads_ids),
            f"experts.router={self.experts and self.experts.router!r} goes by token ids, which"
            " are hidden where tokens are masked (model.mask_embedding=True)",
        )
        self.attention.check(self.position, self.causal)
        in_blocks = self.num_layers - self.num_dense_layers
        require(
            in_blocks > 0 and in_blocks % self.moe_every == 0,
            f"model.num_layers={self.num_layers} less num_dense_layers={self.num_dense_layers} must"
            f" be a positive multiple of model.moe_every={self.moe_every}",
        )
        require(
            self.num_heads % self.kv_heads == 0,
            f"model.num_heads={self.num_heads} must be a multiple of num_kv_heads={self.kv_heads}",
        )

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        return (self.num_layers - self.num_dense_layers) // self.moe_every if self.experts else 0

    @property
    def stacks(self) -> dict[str, "ModelConfig"]:
        """Stacks of layers by name, in the order of their names; "" is the only one."""
        return {"": self}

    @property
    def dense_layers(self) -> int:
        """Layers without experts."""
        return self.num_layers - self.moe_layers

    @property
    def reads_domains(self) -> bool:
        """Does its router read the domains of documents?"""
        return self.experts is not None and self.experts.routing.domains is not None


def _causal_when(experts):
    evaluation = experts is not None and experts.causal == "evaluation"
    return "in training; its evaluation is causal" if evaluation else "in evaluation, too"
