"""The configuration of one run: model, data, optimizer, training, mesh."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optax

from moe import evaluation, initialisation, models, objectives, ranges, schema, sharding
from moe.config import ModelConfig
from moe.data import images, prepare
from moe.data.prepared import Prepared
from moe.dispatch import grouped, groups, transport
from moe.execution import REMAT_POLICIES, Execution
from moe.layers import attention_kernels
from moe.models import contract
from moe.models import lora as low_rank
from moe.training import divergence, optimizer
from moe.training.optimizer import OptimizerConfig

DATA = {"text": prepare.DataConfig, "images": images.ImageConfig}  # what a model reads -> of what
OF_TEXT = ("text", "calibration", "tasks")  # evaluators
OF_EXPERTS = ("transport", "implementation", "ep_capacity_factor")  # fields of a mesh


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how much at once, how often to look."""

    steps: int
    batch_size: int  # sequences a step, over all devices and micro-batches
    seq_len: int
    seed: int = 0  # initial weights, data order, router noise
    first_batch: int = 0  # of the data's order: one that starts from another run goes on after it
    unique_tokens: int = 0  # of the training split, from its beginning, over and over; 0 is all
    accumulate: int = 1  # micro-batches a step
    log_every: int = 50
    eval_every: int = 200
    eval_batches: int = 8  # of the validation split, each of batch_size / accumulate sequences
    test_batches: int = 64  # of the test split, at the end; 0 is all of it
    checkpoint_every: int = 1000
    evaluators: tuple[str, ...] = ("loss", "agreement")  # of `evaluation.EVALUATORS`; "name:every"
    collapse_steps: int = 500  # a router that has been collapsed for so long is warned of
    on_divergence: str = "stop"  # of `divergence.POLICIES`
    largest_grad_norm: float = 0.0  # before clipping; a larger one diverges, 0 is any finite one

    def __post_init__(self):
        ranges.check(self, "train", ranges.TRAIN)
        schema.one_of("train.on_divergence", self.on_divergence, divergence.POLICIES)
        self.evaluator_intervals()
        schema.require(
            self.batch_size % self.accumulate == 0,
            f"train.batch_size={self.batch_size} is not a multiple of accumulate={self.accumulate}",
        )
        batch = self.batch_size * self.seq_len
        schema.require(
            not self.unique_tokens or self.unique_tokens >= batch,
            f"train.unique_tokens={self.unique_tokens} is less than a batch of {batch}: raise it,"
            " or set it to 0 for all",
        )

    def evaluator_intervals(self) -> dict[str, int]:
        """After how many steps each evaluator is called: `eval_every`, or what follows its name.

        Raises:
          UserError: for an evaluator that is none, or an interval that is no positive number.
        """
        intervals = {}
        for entry in self.evaluators:
            name, _, every = entry.partition(":")
            schema.one_of("train.evaluators", name, evaluation.EVALUATORS)
            schema.require(
                re.fullmatch("|0*[1-9][0-9]{0,11}", every) is not None,
                f"train.evaluators has {entry!r}: expected a name, or name:steps as 'loss:500'",
            )
            schema.require(name not in intervals, f"train.evaluators names {name!r} twice")
            intervals[name] = int(every or self.eval_every)
        return intervals


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis, -1 is the rest, and how they execute a model."""

    data: int = -1
    expert: int = 1
    model: int = 1
    zero: bool = False  # see `moe.sharding`
    transport: str = "all_to_all"  # see `moe.dispatch.transport`
    implementation: str = "auto"  # of the grouped dispatcher, see `moe.dispatch.grouped`
    ep_capacity_factor: float = 2.0  # of the grouped dispatcher on a mesh with experts, see there
    attention: str = "auto"  # what computes it, see `moe.layers.attention_kernels`
    remat_policy: str = "full"  # of blocks that are recomputed, see `moe.execution`

    def __post_init__(self):
        schema.one_of("mesh.transport", self.transport, transport.TRANSPORTS)
        kernels = (grouped.AUTO, *grouped.IMPLEMENTATIONS)
        schema.one_of("mesh.implementation", self.implementation, kernels)
        schema.one_of("mesh.remat_policy", self.remat_policy, REMAT_POLICIES)
        schema.one_of("mesh.attention", self.attention, attention_kernels.KERNELS)
        ranges.check(self, "mesh", ranges.MESH)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run. The vocabulary of the model is that of the data."""

    architecture: str = "decoder"  # of `models.MODELS`; says what the fields of `model` are
    model: ModelConfig
    objective: objectives.ObjectiveConfig = field(default_factory=objectives.ObjectiveConfig)
    train: TrainConfig
    data: prepare.DataConfig | images.ImageConfig = field(default_factory=prepare.DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    init_from: initialisation.InitConfig = field(default_factory=initialisation.InitConfig)
    lora: low_rank.LoraConfig = field(default_factory=low_rank.LoraConfig)

    @classmethod
    def types(cls, given: Mapping) -> dict[str, Any]:
        """The types of `model` and `data` are those of the architecture."""
        name = given.get("architecture", cls.architecture)
        schema.one_of("architecture", name, models.MODELS)
        architecture = models.MODELS[name]
        return {"model": architecture.config, "data": DATA[architecture.reads]}

    def __post_init__(self):
        schema.one_of("architecture", self.architecture, models.MODELS)
        for name, kind in self.types({"architecture": self.architecture}).items():
            found = type(getattr(self, name))
            schema.require(
                found is kind,
                f"architecture={self.architecture!r} wants a {kind.__name__} as its {name}, not a"
                f" {found.__name__}",
            )
        self.objective.check(self.model)
        steps, o = self.train.steps, self.optimizer
        schema.require(
            o.schedule != "wsd" or o.stable_steps(steps) >= o.warmup_steps,
            f"train.steps={steps} leaves {o.stable_steps(steps)} before optimizer.schedule='wsd'"
            f" decays, fewer than optimizer.warmup_steps={o.warmup_steps}: train longer, or lower"
            " warmup_steps or decay_fraction",
        )
        self._check_data()
        if self.model.experts:
            for length in self.positions.values():
                size = self.model.experts.tokens_per_group(length)
                groups.check(self.micro_batch, length, size)
        self._check_idle()

    def _check_data(self):
        """Refuses a model that does not fit what is read."""
        if isinstance(self.data, images.ImageConfig):
            self.data.check(self.model, self.train.seq_len)
            of_text = [name for name in OF_TEXT if name in self.train.evaluator_intervals()]
            schema.require(
                not of_text,
                f"train.evaluators has {', '.join(of_text)}, which reads text, not images: leave"
                " it out",
            )
            return
        extra = self.objective.objective.extra_ids(self.objective.options, self.train.seq_len)
        beside = f" + {extra} of objective.name={self.objective.name!r}" if extra else ""
        schema.require(
            self.model.vocab_size == self.data.vocab_size + extra,
            f"model.vocab_size={self.model.vocab_size} is not data.vocab_size="
            f"{self.data.vocab_size}{beside}: set both",
        )

    def _check_idle(self):
        """Refuses fields of the mesh that the model does not read."""
        for name, why in self._idle_fields().items():
            value = getattr(self.mesh, name)
            default = getattr(MeshConfig, name)
            schema.require(
                value == default,
                f"mesh.{name}={value!r} does nothing {why}: leave it at {default!r}",
            )

    def _idle_fields(self):
        """The fields of the mesh that do nothing -> why."""
        recomputing = {} if self.model.remat else {"remat_policy": "without model.remat=True"}
        if not self.model.experts:
            return recomputing | dict.fromkeys(OF_EXPERTS, "in a dense model")
        if self.model.experts.dropless:
            return recomputing | dict.fromkeys(OF_EXPERTS[:1], "with experts.dispatcher='grouped'")
        return recomputing | dict.fromkeys(OF_EXPERTS[1:], "without experts.dispatcher='grouped'")

    @property
    def task(self) -> objectives.contract.Task:
        """The model and what it learns."""
        m = self.mesh
        execution = Execution(
            m.transport, m.implementation, m.ep_capacity_factor, m.attention, m.remat_policy
        )
        return objectives.task(self.model, self.objective, self.frozen, execution, self.lora)

    def source(self, data: Prepared) -> objectives.contract.BatchSource:
        """What is read of the prepared data."""
        return self.objective.objective.source(self, data)

    @property
    def micro_batch(self) -> int:
        """Sequences in one forward pass."""
        return self.train.batch_size // self.train.accumulate

    @property
    def positions(self) -> dict[str, int]:
        """How long a row is in each stack of the model."""
        chosen = self.objective
        lengths = chosen.objective.lengths(chosen.options, self.train.seq_len)
        return dict(zip(self.model.stacks, lengths, strict=True))

    @property
    def num_groups(self) -> dict[str, int]:
        """G of one forward pass in training, by stack; of a dense model one a sequence."""
        experts = self.model.experts
        return {
            stack: self.micro_batch * T // (experts.tokens_per_group(T) if experts else T)
            for stack, T in self.positions.items()
        }

    @property
    def tx(self) -> optax.GradientTransformation:
        """The optimizer with its schedule over all steps."""
        own = dataclasses.replace(self.optimizer, frozen=self.frozen)
        return optimizer.make(own, self.train.steps)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Patterns of parameters that are not trained."""
        still = (*self.optimizer.frozen, *self.objective.objective.frozen)
        return (*still, *low_rank.FROZEN) if self.lora.rank else still

    def plain(self, params: dict) -> dict:
        """Of the parameters that are trained those of `model`, whatever lies beside them."""
        merged = low_rank.plain(self.lora, params)
        return {name: part for name, part in merged.items() if name not in contract.BESIDE}

    def shared(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        """What the mesh must divide: its name -> its number and the axes that share it."""
        m = self.model
        tokens = sharding.TOKENS
        shared: dict[str, tuple[int, tuple[str, ...]]] = {
            "train.batch_size / accumulate": (self.micro_batch, tokens),
            "model.num_heads": (m.num_heads, ("model",)),
            "model.num_kv_heads": (m.kv_heads, ("model",)),
            "model.vocab_size": (m.vocab_size, ("model",)),
        }
        if m.dense_layers:
            shared["model.d_ff"] = (m.d_ff, ("model",))
        if m.ngram_rows:
            shared["model.ngram_rows"] = (m.ngram_rows, ("model",))
        if self.mesh.zero:
            shared["model.d_model"] = (m.d_model, tokens)
        if m.experts:
            for stack, number in self.num_groups.items():
                name = f"number of groups (batch tokens{stack and f' of the {stack}'} / group_size)"
                shared[name] = (number, tokens)
            shared["model.experts.num_experts"] = (m.experts.num_experts, ("expert",))
            shared["model.experts.d_ff"] = (m.experts.d_ff, ("model",))
        return shared

    def replace(self, **sections) -> "RunConfig":
        """A copy in which each section has some fields changed: `train={"seed": 1}`."""
        changed = {k: dataclasses.replace(getattr(self, k), **v) for k, v in sections.items()}
        return dataclasses.replace(self, **changed)
