"""Switch against T5 at equal executed FLOPs, on span corruption.

    python -m experiments.encoder_decoder --config=configs/encoder_decoder.py:demo    # minutes
    python -m experiments.encoder_decoder --config=configs/encoder_decoder.py:cpu     # an hour
    python -m experiments.encoder_decoder --config=configs/encoder_decoder.py:pilots  # the rates

Four layers a side, every second with experts, as in Switch. A row of 57 tokens is read as 52 and
written as 13: so one size of group, 416 tokens, is whole rows of both. The head has weights of its
own in every model (T5 1.1), since parameters are free. Unlike T5's, embeddings are scaled: its
Adafactor moves large weights by more, AdamW all alike, and pilots were better so.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import laws, scaling
from moe import schema
from moe.models.encoder_decoder import EncoderDecoderConfig
from moe.training.config import RunConfig

VOCABULARY, SENTINELS = 1024, 3
LENGTH, ROWS = 57, 32
GROUP = 416  # the 13 tokens of all 32 rows in the decoder, the 52 of eight in the encoder
RATES = {"dense": 0.002, "e8_top1": 0.002, "e32_top1": 0.002}  # of `pilots`, of e8 between


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo, cpu or pilots."""
    return schema.after_colon(size, {"demo": demo, "cpu": cpu, "pilots": pilots})


def cpu() -> ConfigDict:
    """Three paired seeds, 5.5M tokens each, at three lengths."""
    config = ConfigDict()
    config.name = "encoder_decoder_cpu"
    config.seeds = 3
    config.jobs = 2
    config.match = "executed"
    config.shorter = (1 / 4, 1 / 2)
    config.base = schema.complete(RunConfig, base())
    config.experts = scaling.shared(GROUP)
    config.variants = {
        "dense": {},
        "e8_top1": {"experts": {"num_experts": 8, "k": 1}},
        "e32_top1": {"experts": {"num_experts": 32, "k": 1}},
    }
    for name, rate in RATES.items():
        config.variants[name]["learning_rate"] = rate
    return config


def base() -> dict[str, Any]:
    """The dense run."""
    found = scaling.small()
    usual = EncoderDecoderConfig
    found["architecture"] = "encoder_decoder"
    found["objective"] = {"name": "span_corruption"}
    found["data"] = {**found["data"], "source": laws.SOURCES}
    found["model"] |= {
        "vocab_size": VOCABULARY + SENTINELS,
        "num_layers": 4,
        "moe_every": 2,
        "position": usual.position,
        "attention": {"scaled": False},
        "scale_embedding": True,
        "scale_head": False,
    }
    found["train"] |= {
        "steps": 3000,
        "batch_size": ROWS,
        "seq_len": LENGTH,
        "eval_every": 250,
        "evaluators": ("loss",),
    }
    return found


def pilots() -> ConfigDict:
    """Four learning rates of two models, on a seed of their own."""
    config = cpu()
    config.name = "encoder_decoder_pilots"
    config.seeds = 1
    config.first_seed = 100
    config.shorter = ()
    models = {name: config.variants[name] for name in ("dense", "e32_top1")}
    config.variants = scaling.with_rates(models, (0.002, 0.004, 0.008))
    config.variants.dense = {"learning_rate": 0.001}
    config.variants.e32_top1_lr_0_001 = {**models["e32_top1"], "learning_rate": 0.001}
    return config


def demo() -> ConfigDict:
    """One seed, 0.7M tokens."""
    config = cpu()
    config.name = "encoder_decoder_demo"
    config.seeds = 1
    config.base.train.update(steps=400, eval_every=100, eval_batches=8, checkpoint_every=200)
    del config.variants.e8_top1
    return config
