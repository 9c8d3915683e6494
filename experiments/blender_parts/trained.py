"""The runs of the study: where ranker and fuser begin, and both of them at several rates."""

import dataclasses
import pathlib
from typing import Any

from ml_collections import ConfigDict

from experiments.records import Runs
from moe import initialisation, objectives
from moe.models.encoder_decoder import EncoderDecoderConfig
from moe.models.pair_ranker import PairRankerConfig
from moe.objectives import fusing, pair_ranking
from moe.training.config import RunConfig

ENCODER, READER, RANKER = "encoder", "reader", "ranker"
NEW = (("marks|pair|score", "fresh"), (".*", "take"))  # what a ranker has beside its encoder


def starts(config: ConfigDict, base: RunConfig) -> Runs:
    """Models of the text that all read, by masked tokens and by spans of noise."""
    model = dataclasses.replace(base.model, causal=False, mask_embedding=True)
    encoder = _of(base, "decoder", model, "masked_token")
    reader = _of(base, "encoder_decoder", _reader(base, config.fused), "span_corruption")
    return {
        ENCODER: _for(encoder, config.encoder.steps, config.encoder.rate),
        READER: _for(reader, config.reader.steps, config.reader.rate).replace(
            train={"seq_len": config.reader.length}
        ),
    }


def rankers(config: ConfigDict, base: RunConfig, root: pathlib.Path) -> Runs:
    """The ranker at every rate; it begins where the encoder of its seed ended."""
    folder = str(root / "candidates" / "seed{seed}")
    options = pair_ranking.Options(folder=folder, written=config.inputs.written)
    model = _as(PairRankerConfig, base, causal=False)
    run = _of(base, "pair_ranker", model, "pair_ranking", options)
    start = initialisation.InitConfig(
        workdir=str(root / ENCODER / "seed{seed}"), rules=NEW, leave_out=("mask_embedding", "head")
    )
    return _at_rates(config, dataclasses.replace(run, init_from=start), RANKER, config.ranker)


def fusers(config: ConfigDict, base: RunConfig, root: pathlib.Path, chosen: dict[str, str]) -> Runs:
    """A fuser of each kind at every rate; it begins where the reader of its seed ended.

    Args:
      config: of the study.
      base: its dense run.
      root: its folder.
      chosen: kind -> the folder of what it reads.
    """
    found: Runs = {}
    start = initialisation.InitConfig(workdir=str(root / READER / "seed{seed}"))
    for kind, folder in chosen.items():
        written = config.inputs.written
        options = fusing.Options(folder=folder, written=written, fused=config.fused)
        run = _of(base, "encoder_decoder", _reader(base, config.fused), "fusing", options)
        found |= _at_rates(config, dataclasses.replace(run, init_from=start), kind, config.fuser)
    return found


def _reader(base, extra):
    own: dict[str, Any] = {"vocab_size": base.model.vocab_size + extra, "scale_head": False}
    usual = {name: getattr(EncoderDecoderConfig, name) for name in ("position", "attention")}
    return _as(EncoderDecoderConfig, base, **own, **usual)


def _as(kind, base, **own):
    """The sizes of the base's model as those of another kind."""
    fields = (field.name for field in dataclasses.fields(base.model))
    return kind(**{name: getattr(base.model, name) for name in fields} | own)


def _of(base, architecture, model, name, options=None):
    """The run with another model, that learns something else."""
    objective = objectives.ObjectiveConfig(name=name, options=options)
    run = dataclasses.replace(base, architecture=architecture, model=model, objective=objective)
    return run.replace(train={"evaluators": ("loss",)})


def _for(run, steps, rate):
    how = {"steps": steps, "eval_every": max(1, steps // 4)}
    return run.replace(train=how, optimizer={"learning_rate": rate, "warmup_steps": steps // 10})


def _at_rates(config, run, name, how):
    """The run on inputs with candidates, judged by all that are held out, <name>_lr_<rate>."""
    length = config.inputs.length + config.inputs.written
    whole = {"seq_len": length, "unique_tokens": 0, "eval_batches": 10**6, "test_batches": 0}
    run = run.replace(train=whole)
    called = {f"{name}_lr_{rate}".replace(".", "_"): rate for rate in how.rates}
    return {one: _for(run, how.steps, rate) for one, rate in called.items()}
