"""Whole models: training steps at equal executed FLOPs, and decoding at equal active size.

    python -m experiments.bench_model --config=configs/bench_model.py [--peers]    # CPU
    python -m experiments.bench_model --config=configs/bench_model.py:gpu    # one accelerator

`small` is the model of `configs/scaling.py:cpu`, `large` has four times its width, twice its layers
and four times its context, and `llama` is of the shape of Llama and Mixtral. Decoding is that of 64
experts in every second layer of a wider model.
"""

from ml_collections import ConfigDict

from configs import scaling
from moe import schema
from moe.config import ModelConfig


def get_config(where: str = "cpu") -> ConfigDict:
    """The models: cpu or gpu."""
    schema.one_of("what follows the colon", where, ("cpu", "gpu"))
    config = ConfigDict()
    config.name = f"bench_model_{where}"
    config.rounds = 15
    small = scaling.cpu()
    small.shorter = ()
    small.variants = {
        "dense": {},
        "e8_top1": scaling.experts(8, k=1),
        "e8_top2": scaling.experts(8),
        "e32_top2": scaling.experts(32),
        "e64_top1": scaling.experts(64, k=1),
    }
    if where == "cpu":
        config.training = {"small": small, "large": large(small), "llama": llama(small)}
    else:
        config.training = {"gpu": gpu()}
    config.decoding = decoding(where)
    return config


def large(small: ConfigDict) -> ConfigDict:
    """A model in which products count for more."""
    config = small.copy_and_resolve_references()
    config.base.model.update(d_model=256, num_heads=4, d_head=64, d_ff=1024, num_layers=4)
    config.base.train.update(batch_size=16, seq_len=256)
    config.experts.group_size = 4096
    return config


def llama(small: ConfigDict) -> ConfigDict:
    """Llama's and Mixtral's layers, as others have them, too: active widths alike, not FLOPs."""
    config = large(small)
    config.match = "ideal"
    config.base.data.vocab_size = 4096
    config.base.model.update(vocab_size=4096, activation="swiglu", tie_embeddings=False)
    config.base.train.batch_size = 8
    config.experts.group_size = 2048
    config.variants = {"dense": {}}
    for number in (8, 64):
        config.variants[f"e{number}_top2"] = scaling.experts(number)
        dropless = {"group_size": 0, "capacity_factor": 0.0, "eval_capacity_factor": 0.0}
        config.variants[f"e{number}_top2_grouped"] = scaling.experts(
            number, dispatcher="grouped", **dropless
        )
    return config


def gpu() -> ConfigDict:
    """The model of `configs/scaling.py:gpu`."""
    config = scaling.gpu()
    for name in (*scaling.DOUBLED, "dense_ngrams", "e32_hash", "e32_top2_random"):
        del config.variants[name]
    return config


def decoding(where: str) -> ConfigDict:
    """One model without experts and several with: a token meets as many parameters in each."""
    model = {
        "vocab_size": 1024,
        "num_layers": 4,
        "d_model": 512,
        "num_heads": 8,
        "d_head": 64,
        "d_ff": 2048,
        "dtype": "float32" if where == "cpu" else "bfloat16",
        "experts": None,
    }
    config = ConfigDict()
    config.base = schema.complete(ModelConfig, model)
    config.experts = {"e64_top1": (64, 1), "e64_top2": (64, 2), "e8_top2": (8, 2)}  # E, K
    config.batches = (1, 16, 64)
    config.length = 256  # of the cache, half of it filled
    return config
