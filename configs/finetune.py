"""Some parameters of a trained model, trained on: ST-MoE's subsets.

    python -m experiments.train --config=configs/finetune.py:attention --workdir=runs/attention \
        --config.init_from.workdir=runs/train

After the colon stands one of `moe.adapt.finetune.SUBSETS`, or `lora`: low-rank changes of attention
and experts, beside which nothing is trained. Model and text are those of
configs/train.py; experts drop hidden units, as in ST-MoE. Other text needs the same tokenizer:
--config.data.tokenizer=<the tokenizer.json in the data of the run> beside --config.data.source.
"""

from ml_collections import ConfigDict

from configs import train
from moe import schema
from moe.adapt import finetune


def get_config(subset: str = "all") -> ConfigDict:
    """The run in which this subset is trained."""
    schema.one_of("the subset after the colon", subset, (*finetune.SUBSETS, "lora"))
    config = train.get_config()
    if subset == "lora":
        config.lora = {"rank": 8, "weights": (r".*/attention/w_.*", r".*/experts/w_.*")}
        config.init_from.rules = (("lora/.*", "fresh"), (".*", "take"))
    else:
        config.optimizer.frozen = finetune.SUBSETS[subset]
    config.optimizer.learning_rate = 0.001
    config.model.experts.expert_dropout = 0.1
    config.train.steps = 300
    return config
