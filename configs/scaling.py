"""Equal FLOPs on real text: a dense decoder, and MoE decoders that cost the same per token.

    python -m experiments.scaling --config=configs/scaling.py:demo     # 8 to 15 minutes, 2 cores
    python -m experiments.scaling --config=configs/scaling.py:cpu      # hours, 2 cores
    python -m experiments.scaling --config=configs/scaling.py:ladder   # as many more, 2 cores
    python -m experiments.scaling --config=configs/scaling.py:pilots   # what chose learning rates
    python -m experiments.scaling --config=configs/scaling.py:gpu      # one accelerator

All MoE variants are matched to `dense` in executed FLOPs: padding to capacity, the router and the
dispatch are paid for by narrower experts. Parameters are free, so the output head has weights of
its own in every variant. Learning rates are the best of `pilots`, which have a seed of their own
and the length of the study (4, 16 and 64 experts top-1 take that of 32). `experiments/RESULTS.md`
has what came out.
"""

from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from moe import schema
from moe.training.config import RunConfig

CORPUS = ("encyclopedia_en", "encyclopedia_fr", "encyclopedia_es", "code", "cloud_docs")


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo, cpu, ladder, pilots or gpu."""
    sizes = {"demo": demo, "cpu": cpu, "ladder": ladder, "pilots": pilots, "gpu": gpu}
    return schema.after_colon(size, sizes)


def experts(number: int, **overrides: Any) -> dict:
    """A variant with so many experts, top-2 unless k says else."""
    return {"experts": {"num_experts": number, "k": 2, **overrides}}


# Parameters that go by the token alone, and noise: none of them has a router that learns.
HASH = {"k": 1, "router": "hash", "options": {"table": "balanced"}, "router_scale": 0.0}
RANDOM = {"router": "random", "router_scale": 0.0}  # in evaluation drawn once for each batch

# Twice the FLOPs of `dense` in three shapes: wider feed-forwards, wider throughout, deeper.
DOUBLED = {
    "dense_2x_ffn": {"flops": 2.0},
    "dense_2x_wide": {"flops": 2.0, "model": {"d_model": 96, "num_heads": 3}},
    "dense_2x_deep": {"flops": 2.0, "model": {"num_layers": 4}},
}


# The best of `pilots`, if it is not that of the base. `random` takes that of the router beside it,
# and top-1 of other numbers that of 32.
RATES = {
    **dict.fromkeys(("e4_top1", "e16_top1", "e32_top1", "e64_top1"), 0.004),
    **dict.fromkeys(("e8_top2", "e32_top2", "e32_top2_random", "e64_top2", "e32_hash"), 0.008),
    **dict.fromkeys(DOUBLED, 0.008),
}


def cpu() -> ConfigDict:
    """Three paired seeds of each model: 12.3M tokens each, three quarters of an epoch."""
    config = ConfigDict()
    config.name = "scaling_cpu"
    config.seeds = 3
    config.jobs = 2  # runs at a time, each on its own share of the cores
    config.match = "executed"
    config.watts = 60.0  # assumed draw of the machine, shared by its jobs, for the energy estimate
    config.base = schema.complete(RunConfig, small())
    config.shorter = (1 / 8, 1 / 4, 1 / 2)  # of the steps, see `experiments.horizons`
    # What the experts' variants share; d_ff is solved for.
    config.experts = shared()
    config.variants = tuned({
        "dense": {},
        "dense_ngrams": {"parameters_of": "e32_top2"},
        "e8_top2": experts(8),
        "e32_top1": experts(32, k=1),
        "e32_hash": experts(32, **HASH),
        "e32_top2": experts(32),
        "e32_top2_random": experts(32, **RANDOM),
    })  # fmt: skip
    return config


def in_minutes(config: ConfigDict, name: str) -> ConfigDict:
    """The study with one seed and short runs, under another name."""
    config.name = name
    config.seeds = 1
    config.base.train.update(steps=400, eval_every=200, eval_batches=8, checkpoint_every=200)
    return config


def shared(group_size: int = 2048) -> dict[str, Any]:
    """What the experts of every variant have in common."""
    return {
        "group_size": group_size,
        "capacity_factor": 1.25,
        "eval_capacity_factor": 1.25,  # the same: evaluation costs what dense costs, too
        "router_scale": 2.0,
    }


def tuned(variants: dict) -> dict:
    """The variants at their own learning rates; those without one keep the base's."""
    return {
        name: {**variant, "learning_rate": RATES[name]} if name in RATES else variant
        for name, variant in variants.items()
    }


def small() -> dict:
    """The dense run that a CPU can do: what differs from the defaults of `RunConfig`."""
    return {
        "data": {"source": CORPUS, "vocab_size": 1024, "held_out_tokens": 8192},
        "model": {
            "vocab_size": 1024,
            "num_layers": 2,
            "moe_every": 1,
            "d_model": 64,
            "num_heads": 2,
            "d_head": 32,
            "d_ff": 256,
            "activation": "relu",
            "tie_embeddings": False,
            "dtype": "float32",
        },
        "optimizer": {"learning_rate": 0.016, "schedule": "wsd", "warmup_steps": 200},
        "train": {
            "steps": 6000,
            "batch_size": 32,
            "seq_len": 64,
            "eval_every": 300,
            "eval_batches": 64,
            "test_batches": 0,
            "log_every": 200,
            "checkpoint_every": 1000,
        },
    }


def demo() -> ConfigDict:
    """The same models, so that they show the effect in minutes: one seed, 3.1M tokens each."""
    config = cpu()
    config.name = "scaling_demo"
    config.seeds = 1
    config.shorter = (1 / 4, 1 / 2)
    config.base.train.update(
        steps=1500, eval_every=150, eval_batches=16, log_every=50, checkpoint_every=500
    )
    for name in ("e32_top1", "e32_top2_random"):
        del config.variants[name]
    return config


def ladder() -> ConfigDict:
    """The study of `cpu`, in the same folder, grown by more experts and dense at twice the FLOPs.

    Of the latter's three shapes it is the one that was best in `pilots`.
    """
    return grown("dense_2x_wide")


def grown(*doubled: str) -> ConfigDict:
    """The study of `cpu` with more experts, and these shapes of dense at twice the FLOPs."""
    config = cpu()
    of_number = {f"e{number}_top1": experts(number, k=1) for number in (4, 16, 64)}
    dense = {name: DOUBLED[name] for name in doubled}
    config.variants.update(tuned({**dense, **of_number, "e64_top2": experts(64)}))
    return config


def pilots() -> ConfigDict:
    """Learning rates at the length of the study, on a seed of their own."""
    config = grown(*DOUBLED)
    config.name = "scaling_pilots"
    config.seeds = 1
    config.first_seed = 100
    config.shorter = ()
    models = config.variants
    others = ("e8_top2", "e32_top1", "e32_hash", "e32_top2", "e64_top2")
    models = {name: models[name] for name in ("dense", *DOUBLED, "dense_ngrams", *others)}
    config.variants = with_rates(models, (0.004, 0.008, 0.016))
    config.variants.dense = models["dense"]  # a fourth rate, of the one that others are set beside
    config.base.optimizer.learning_rate = 0.032
    # Where the best of three was at an edge, a fourth beyond it.
    config.variants.update(with_rates({"e32_top1": models["e32_top1"]}, (0.002,)))
    ngrams = {"parameters_of": "e32_top2_lr_0_016", "learning_rate": 0.032}
    config.variants.dense_ngrams_lr_0_032 = ngrams
    return config


def with_rates(variants: dict, rates: Iterable[float]) -> ConfigDict:
    """Every variant at every learning rate, those that a variant refers to as well."""
    found = {}
    for rate in rates:
        suffix = f"_lr_{rate}".replace(".", "_")
        for name, variant in variants.items():
            found[name + suffix] = {**variant, "learning_rate": rate}
            if "parameters_of" in variant:
                found[name + suffix]["parameters_of"] = variant["parameters_of"] + suffix
    return ConfigDict(found)


def gpu() -> ConfigDict:
    """Up to 256 experts on all seven packaged domains: 65M tokens (3.7 epochs), bfloat16.

    One length and one learning rate for all, which no pilot has chosen.
    """
    config = grown(*DOUBLED)
    config.name = "scaling_gpu"
    config.jobs = 1
    config.watts = 700.0
    config.shorter = ()
    data = {"source": (*CORPUS, "web_api_docs", "framework_docs"), "vocab_size": 4096}
    config.base.data.update(data)
    config.base.model.update(
        vocab_size=4096,
        num_layers=8,
        moe_every=2,
        d_model=256,
        num_heads=4,
        d_head=64,
        d_ff=1024,
        dtype="bfloat16",
    )
    config.base.optimizer.learning_rate = 0.003
    config.base.optimizer.warmup_steps = 500
    config.base.train.steps = 4000
    config.base.train.batch_size = 64
    config.base.train.seq_len = 256
    config.base.train.eval_batches = 8
    config.variants.dense_2x_wide.model.update(d_model=384, num_heads=6)
    config.variants.dense_2x_deep.model.update(num_layers=16)
    config.variants.e256_top2 = experts(256)
    for name in RATES.keys() & config.variants.keys():
        del config.variants[name]["learning_rate"]
    return config
