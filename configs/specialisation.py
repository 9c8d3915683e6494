"""What experts specialise in: top-k of 8 and of 32 experts, and two models with document pools.

    python -m experiments.specialisation --config=configs/specialisation.py:demo   # minutes
    python -m experiments.specialisation --config=configs/specialisation.py:cpu    # an hour

Models of top-k are those of `configs/abilities.py`, in the folder of that study: what is trained
there is used, what is not is trained first, which takes hours more. The others have the FLOPs and
the learning rate of its `e32_top2`: they were not tuned. Pools have 4 to 12 of the 32 experts in
training and 8 in evaluation, a quarter as where EMO keeps its quality. The pools of `e32_emo` know
later tokens of their document, so its loss is not of prediction. And nothing is dropped: the few
documents of a batch crowd in their pools, where slots for 1.25 times the mean load would drop 40%
of the choices.
"""

from ml_collections import ConfigDict

from configs import abilities
from moe import schema

POOLS = {"least": 4, "most": 12}
DROPLESS = {
    "dispatcher": "grouped",
    "group_size": 0,
    "capacity_factor": 0.0,
    "eval_capacity_factor": 0.0,
}


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo or cpu."""
    return schema.after_colon(size, {"demo": demo, "cpu": cpu})


def cpu() -> ConfigDict:
    """Three paired seeds, 6.1M tokens each, 64 batches of test text."""
    config = abilities.cpu()
    config.name = "specialisation_cpu"
    config.pretrained = abilities.cpu()
    config.models = ("e8_top2", "e32_top2")  # of its variants
    top = config.variants.e32_top2
    config.variants = {
        "e32_emo": pooled(top, "document") | {"model": {"allow_noncausal": True}},
        "e32_emo_running": pooled(top, "running"),
    }
    config.test_batches = 64
    config.draws = 100  # of shuffled labels, and of resampled documents
    return config


def pooled(variant: ConfigDict, pool: str) -> dict:
    """The same with pools, and without slots."""
    router = {"router": "emo", "options": {"pool": pool, **POOLS}}
    return variant.to_dict() | {"experts": variant.experts.to_dict() | router | DROPLESS}


def demo() -> ConfigDict:
    """One seed, 0.8M tokens, one model of each kind."""
    config = cpu()
    config.name = "specialisation_demo"
    config.pretrained = abilities.demo()
    config.models = ("e32_top2",)
    config.seeds = 1
    config.shorter = ()
    config.base.train = config.pretrained.base.train
    del config.variants["e32_emo_running"]
    config.test_batches = 16
    config.draws = 20
    return config
