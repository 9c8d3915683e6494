"""Random configs, drawn from the types of their fields: good, borderline and wrong."""

import dataclasses
import random
import types
import typing
from collections.abc import Callable
from typing import Any

from configs import soak
from moe import attention_config, ffn, objectives, routing
from moe.attention_config import AttentionConfig
from moe.config import DTYPES, ModelConfig, MoEConfig
from moe.dispatch import DISPATCHERS, grouped, transport
from moe.layers import attention_kernels
from moe.objectives import ObjectiveConfig
from moe.routing import gshard, hashed
from moe.training import divergence
from moe.training.config import MeshConfig, TrainConfig
from moe.training.optimizer import SCHEDULES, OptimizerConfig

NAMES: dict[str, tuple[str, ...]] = {  # what fields that hold a name may say
    "router": tuple(routing.ROUTERS),
    "dispatcher": tuple(DISPATCHERS),
    "activation": tuple(ffn.ACTIVATIONS),
    "dense_activation": ("", *ffn.ACTIVATIONS),
    "position": ("rotary", "relative"),
    "dtype": DTYPES,
    "transport": tuple(transport.TRANSPORTS),
    "implementation": tuple(grouped.IMPLEMENTATIONS),
    "attention": tuple(attention_kernels.KERNELS),
    "schedule": SCHEDULES,
    "on_divergence": divergence.POLICIES,
    "name": tuple(objectives.OBJECTIVES),
    "second": gshard.SECONDS,
    "table": tuple(hashed.TABLES),
    "qk_norm": attention_config.QK_NORMS,
    "rope_layout": attention_config.LAYOUTS,
}
SMALL = (1, 2, 3, 4, 5, 7, 8, 12, 16, 32)
ODD = (-1, 0, 64, 1000, 10**6, 2**31, 10**12)
FRACTIONS = (0.0, 0.001, 0.1, 0.5, 1.0, 1.25, 2.0, 4.0)
WILD = (-1.0, 1e-30, 1e4, 1e30, float("inf"), float("nan"))
WRONG: tuple[Any, ...] = (None, "", "nonesuch", -3, 0.5, True, (), ("loss",), {})
SECTIONS = {
    "train": TrainConfig, "optimizer": OptimizerConfig, "mesh": MeshConfig,
    "objective": ObjectiveConfig,
}  # fmt: skip
CHANGED = {"train": 0.3, "optimizer": 0.3, "mesh": 0.1, "objective": 0.02}  # how often
NOT_DRAWN = ("experts", "vocab_size", "attention")
ONE_EXPERT = ("reinforce", "domain", "rre", "base", "hash", "sinkhorn")
K = {**dict.fromkeys(ONE_EXPERT, [1]), "gshard": [2]}  # of routers that are not free to choose
STEPS = 2


def run(seed: int) -> dict[str, Any]:
    """The fields of a `RunConfig`: a small run, of which a few are random."""
    rng = random.Random(seed)
    config = soak.get_config().to_dict()
    config["train"] |= {"log_every": 1, "test_batches": 1, "evaluators": ("loss",)}
    config["optimizer"]["warmup_steps"] = 1
    model = config["model"]
    model["experts"] = experts(rng) if rng.random() < 0.9 else None
    router = model["experts"]["router"] if model["experts"] else "top_k"
    if routing.ROUTERS[router].causal != "always" or rng.random() < 0.1:  # it learns masked tokens
        config["objective"] = {"name": "masked_token"}
        model |= {"causal": False, "mask_embedding": True}
    for section, kind in SECTIONS.items():
        change(rng, config.setdefault(section, {}), kind, rng.random() < CHANGED[section])
    change(rng, model, ModelConfig, rng.choice((0, 0, 1, 2)), kept=NOT_DRAWN)
    change(rng, model.setdefault("attention", {}), AttentionConfig, rng.random() < 0.3)
    config["train"]["steps"] = STEPS
    return config


def experts(rng: random.Random) -> dict[str, Any]:
    """Fields of a `MoEConfig`, mostly good ones."""
    router = rng.choice(tuple(routing.ROUTERS))
    number = rng.choice(SMALL)
    found = {"num_experts": number, "d_ff": rng.choice(SMALL), "router": router}
    found["k"] = rng.choice(K.get(router, [k for k in SMALL if k <= number]))
    kind = routing.ROUTERS[router].kind
    found["dispatcher"] = rng.choice([n for n, d in DISPATCHERS.items() if kind in d.KINDS])
    if found["dispatcher"] == "grouped":
        found |= {"capacity_factor": 0.0, "eval_capacity_factor": 0.0}
    options = {"groups": rng.choice(SMALL)} if router == "rre" else {}
    if rng.random() < 0.3:
        change(rng, options, routing.ROUTERS[router].options, 1)
    found |= {"options": options} if options else {}
    return change(rng, found, MoEConfig, rng.choice((0, 0, 1, 2)), kept=("router", "options"))


def change(
    rng: random.Random, config: dict, kind: type, number: int, kept: tuple[str, ...] = ()
) -> dict:
    """The fields of a dataclass, of which so many get a random value; it is changed in place."""
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind) if f.name not in kept]
    for name in rng.sample(names, min(number, len(names))):
        config[name] = value(rng, name, hints[name])
    return config


def value(rng: random.Random, name: str, hint: Any) -> Any:
    """A value for a field: most are of its type, some are not."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind = rng.choice(kinds)
    if rng.random() < 0.03 or kind not in VALUES:
        return rng.choice(WRONG)
    return VALUES[kind](rng, name)


def _number(usual: tuple, unusual: tuple) -> Callable[[random.Random, str], Any]:
    return lambda rng, name: rng.choice(usual if rng.random() < 0.9 else unusual)


VALUES: dict[Any, Callable[[random.Random, str], Any]] = {
    int: _number(SMALL, ODD),
    float: _number(FRACTIONS, WILD),
    bool: _number((False, True), (False, True)),
    str: lambda rng, name: rng.choice(NAMES.get(name, ("", "nonesuch"))),
    types.NoneType: lambda rng, name: None,
}
