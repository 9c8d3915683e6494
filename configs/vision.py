"""V-MoE on small images beside a dense twin of equal executed FLOPs, and with few slots.

    python -m experiments.vision --config=configs/vision.py:demo     # digits of 8 x 8, 1 seed
    python -m experiments.vision --config=configs/vision.py:cpu      # MNIST, 3 seeds, an hour
    python -m experiments.vision --config=configs/vision.py:pilots   # the learning rates
    python -m experiments.vision --config=configs/vision.py:fashion \
        --config.base.data.directory=<a folder with the four files of Fashion-MNIST>

Four layers, 8 experts top-2 in the last two, as V-MoE's smallest. Slots are those of a whole batch,
1.05 times as many as choices, and gates are probabilities that are not divided by their sum: as in
the paper (Riquelme et al. 2021, section 2 and appendix). Its noise is left out, its two losses of
balance are Switch's one, and ST-MoE's z-loss is added. Soft MoE mixes the patches of an image into
as many slots. No image is changed for training. Learning rates are one for all until `pilots` say
otherwise.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import scaling
from moe import schema
from moe.data import images
from moe.training.config import RunConfig

ROWS = 40  # images in a batch; divides every test split, for beside padding an image has more slots
EXPERTS = 8
K = 2
TENTHS = tuple(number / 10 for number in range(1, 11))
FULL = EXPERTS / K  # the factor at which an expert has a slot for every patch


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo, cpu, pilots or fashion."""
    sizes = {"demo": demo, "cpu": cpu, "pilots": pilots, "fashion": fashion}
    return schema.after_colon(size, sizes)


def cpu() -> ConfigDict:
    """Three paired seeds on 3,500 digits of MNIST, each seen 27 times."""
    return study("vision_cpu", "mnist_5k", 4)


def study(name: str, source: str, patch: int) -> ConfigDict:
    """The study on a set of images."""
    config = ConfigDict()
    config.name = name
    config.seeds = 3
    config.jobs = 2
    config.match = "executed"
    config.base = schema.complete(RunConfig, base(source, patch))
    patches = config.base.train.seq_len
    config.experts = {"group_size": ROWS * patches, "router_scale": 2.0, **factors(1.05)}
    config.variants = {
        "dense": {},
        "vmoe": vmoe(batch_priority=False),
        "vmoe_priority": vmoe(batch_priority=True),
        "soft": {"experts": soft(patches)},
    }
    config.factors = (*TENTHS, FULL)  # of capacity, at which the trained models are evaluated
    return config


def base(source: str, patch: int) -> dict[str, Any]:
    """The dense run."""
    data = images.ImageConfig(source=source, patch=patch)
    patches = data.num_patches
    return {
        "architecture": "vision",
        "objective": {"name": "classification"},
        "data": {"source": source, "patch": patch},
        "model": {
            "num_layers": 4,
            "num_dense_layers": 2,
            "moe_every": 1,
            "d_model": 64,
            "num_heads": 2,
            "d_head": 32,
            "d_ff": 256,
            "dtype": "float32",
            "num_patches": patches,
            "patch_width": patch**2,
            "num_classes": len(data.images.classes),
        },
        "optimizer": {"learning_rate": 0.002, "schedule": "wsd", "warmup_steps": 100},
        "train": {
            "steps": 2400,
            "batch_size": ROWS,
            "seq_len": patches,
            "eval_every": 200,
            "eval_batches": 64,
            "test_batches": 0,
            "log_every": 100,
            "checkpoint_every": 1000,
            "evaluators": ("loss",),
        },
    }


def factors(factor: float) -> dict[str, float]:
    """One capacity factor for training and evaluation."""
    return {"capacity_factor": factor, "eval_capacity_factor": factor}


def vmoe(batch_priority: bool) -> dict:
    """A variant whose patches take slots by probability, or by position."""
    options = {"batch_priority": batch_priority, "normalise_gates": False}
    return {"experts": {"num_experts": EXPERTS, "k": K, "options": options}}


def soft(patches: int) -> dict[str, Any]:
    """Soft MoE with as many slots as an image has patches, or a few more."""
    own = {"router": "soft", "router_scale": 1.0, "dispatcher": "einsum", "group_size": patches}
    return {"num_experts": EXPERTS, "k": 1, **own, **factors(1.0)}


def pilots() -> ConfigDict:
    """Four learning rates of every variant, on a seed of their own."""
    config = cpu()
    config.name = "vision_pilots"
    config.seeds = 1
    config.first_seed = 100
    models = config.variants
    config.variants = scaling.with_rates(models, (0.001, 0.004, 0.008))
    config.variants.dense = models.dense  # what others are set beside
    for name in ("vmoe", "vmoe_priority", "soft"):
        config.variants[f"{name}_lr_0_002"] = {**models[name], "learning_rate": 0.002}
    config.factors = ()  # validation chooses
    return config


def demo() -> ConfigDict:
    """One seed on 1,257 digits of 8 x 8 pixels."""
    config = study("vision_demo", "digits", 2)
    config.seeds = 1
    config.base.train.update(steps=400, eval_every=100, log_every=50, checkpoint_every=200)
    config.factors = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, FULL)
    return config


def fashion() -> ConfigDict:
    """Three paired seeds on Fashion-MNIST, 54,000 images for training, each seen 2.4 times."""
    config = study("vision_fashion", "fashion", 4)
    config.base.train.steps = 3200
    return config
