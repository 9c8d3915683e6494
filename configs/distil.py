"""A dense student of a trained model with experts, as wide as that one's dense layers.

    python -m experiments.train --config=configs/distil.py:runs/train --workdir=runs/student

After the colon stands the teacher's folder. Text, length and optimizer are the teacher's; the
student starts from the teacher's parameters that are no feed-forwards (Fedus et al. 2021, section
4.1). `--config.init_from.rules` chooses another start, see `moe.objectives.distillation.merged`.
"""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from moe import initialisation, objectives, schema
from moe.errors import UserError
from moe.objectives import distillation
from moe.training import runs
from moe.training.config import MeshConfig, RunConfig


def get_config(workdir: str = "runs/train") -> ConfigDict:
    """The run of a student of the run in this folder."""
    return schema.complete(RunConfig, schema.to_dict(student_of(workdir)))


def student_of(workdir: str) -> RunConfig:
    """The same as a `RunConfig`.

    Raises:
      UserError: if there is no run, or its model has no experts.
    """
    teacher = runs.read_config(pathlib.Path(workdir))
    if teacher.model.experts is None:
        raise UserError(f"{workdir} is of a dense model: the student would be as large")
    if teacher.lora.rank or teacher.objective.name != "next_token":
        raise UserError(
            f"{workdir} has low-rank changes, or did not learn the next token: make it plain by"
            " experiments.adapt --how=plain, and name that folder"
        )
    options = distillation.Options(teacher=teacher.model)
    return dataclasses.replace(
        teacher,
        model=dataclasses.replace(teacher.model, experts=None),
        objective=objectives.ObjectiveConfig(name="distillation", options=options),
        init_from=initialisation.InitConfig(workdir=workdir, rules=distillation.START),
        optimizer=dataclasses.replace(teacher.optimizer, frozen=()),
        mesh=MeshConfig(data=teacher.mesh.data, zero=teacher.mesh.zero),
    )
