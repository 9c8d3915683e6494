"""Which parameters to fine-tune: ST-MoE's subsets of dense and sparse models, on two tasks.

    python -m experiments.finetune_subsets --config=configs/finetune_subsets.py:demo  # minutes
    python -m experiments.finetune_subsets --config=configs/finetune_subsets.py:cpu   # an hour

The models are those of `configs/abilities.py`, in the folder of that study: what is trained there
is used, what is not is trained first, which takes hours more. Of `moe.data.questions` the tasks are

- arc_easy, small: 456 questions to learn from, each met about six times by `cpu`, and 57 for the
  test, with 660 tokens of answers. (copa and cb have 9 and 5, too few to choose a rate by.)
- triviaqa, the largest: 6392, most of which are met once or never, and 798 with 6350 tokens.
"""

from ml_collections import ConfigDict

from configs import abilities
from moe import schema


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo or cpu."""
    return schema.after_colon(size, {"demo": demo, "cpu": cpu})


def cpu() -> ConfigDict:
    """Three paired seeds, those of the models, and 100 steps of 2,048 tokens."""
    config = ConfigDict()
    config.name = "finetune_subsets_cpu"
    config.seeds = 3
    config.jobs = 2
    config.pretrained = abilities.cpu()
    config.models = ("dense", "e8_top2", "e32_top2")  # of its variants
    config.tasks = ("arc_easy", "triviaqa")
    config.rates = (0.002, 0.006, 0.02)  # each tried for every subset; the best by validation loss
    config.questions = 100  # asked of each task's test split, the first
    # What differs from the run before in each section. Text is not looked at.
    config.tuned = {
        "optimizer": {"warmup_steps": 10},
        "train": {
            "steps": 100,
            "eval_every": 25,
            "eval_batches": 10**6,  # the whole split
            "test_batches": 0,
            "log_every": 50,
            "checkpoint_every": 100,
            "evaluators": ("loss",),
        },
    }
    return config


def demo() -> ConfigDict:
    """One seed, 40 steps, the small task, two rates."""
    config = cpu()
    config.name = "finetune_subsets_demo"
    config.pretrained = abilities.demo()
    config.seeds = 1
    config.models = ("dense", "e32_top2")
    config.tasks = ("arc_easy",)
    config.rates = (0.003, 0.01)
    config.tuned.train.update(steps=40, eval_every=20, log_every=20, checkpoint_every=40)
    return config
