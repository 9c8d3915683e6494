"""Dense and experts at equal FLOPs, fine-tuned on one task directly or after instruction tuning.

    python -m experiments.instruction_tuning --config=configs/instruction_tuning.py:demo  # minutes
    python -m experiments.instruction_tuning --config=configs/instruction_tuning.py:cpu   # an hour

On 2 cores, beside what the models of `configs/abilities.py`, which all start from, take. The single
tasks have 1,000 and 1,838 questions, of which models learn from eight in ten.
"""

from ml_collections import ConfigDict

from configs import abilities
from moe import schema
from moe.objectives import instruction


def get_config(size: str = "demo") -> ConfigDict:
    """The config of one size: demo or cpu."""
    return schema.after_colon(size, {"demo": demo, "cpu": cpu})


def cpu() -> ConfigDict:
    """Three paired seeds."""
    config = ConfigDict()
    config.name = "instruction_tuning_cpu"
    config.pretrained = abilities.cpu()
    config.models = ("dense", "e32_top2")  # of its variants, "dense" among them
    config.seeds = 3
    config.jobs = 2
    config.single = ("natural_questions", "piqa")  # of knowledge, of reasoning
    # That models are instruction-tuned on.
    config.held_in = tuple(task for task in instruction.TASKS if task not in config.single)
    config.held_out = ("drop", "lambada", "rte", "squad")  # that no model is tuned on
    # Every cell is trained at each rate, and the best by validation loss is reported.
    config.tuned = {"steps": 600, "rates": (0.002, 0.004, 0.008, 0.016)}  # on what is held in
    config.alone = {"steps": 120, "rates": (0.001, 0.002, 0.004, 0.008)}  # on one task
    config.questions = 100  # of each task's test split, that are answered; the loss is of all
    return config


def demo() -> ConfigDict:
    """One seed of the models of `abilities.demo`, a task of each kind."""
    config = cpu()
    config.name = "instruction_tuning_demo"
    config.pretrained = abilities.demo()
    config.seeds = 1
    config.single = ("piqa",)
    config.held_in = ("arc_easy", "boolq", "openbookqa")
    config.held_out = ("rte",)
    config.tuned = {"steps": 200, "rates": (0.0005, 0.002, 0.008)}
    config.alone = {"steps": 60, "rates": (0.0005, 0.002, 0.008)}
    config.questions = 30
    return config
