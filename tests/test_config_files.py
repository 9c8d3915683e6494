"""What a config file may say, and what is refused with its path."""

import dataclasses
import json

import ml_collections
import pytest

from moe import config as configs
from moe import routing, schema
from moe.data import prepare
from moe.training import config as training
from moe.training import optimizer
from tests import tiny
from tests.test_config import TRAIN, run_config


def as_dict(**changes):
    config = schema.to_dict(run_config())
    for path, value in changes.items():
        *sections, name = path.split("__")
        inner = config
        for section in sections:
            inner = inner[section]
        inner[name] = value
    return ml_collections.ConfigDict(config)


def read(**changes):
    return schema.from_config_dict(training.RunConfig, as_dict(**changes))


def test_there_and_back():
    assert read() == run_config()
    assert json.loads(json.dumps(schema.to_dict(read())))["model"]["experts"]["num_experts"] == 4


def test_only_what_has_no_default_is_needed():
    given = {
        "model": {
            "vocab_size": 4096, "num_layers": 2, "d_model": 8, "num_heads": 2, "d_head": 4,
            "d_ff": 16,
        },
        "train": TRAIN,
    }  # fmt: skip
    run = schema.from_config_dict(training.RunConfig, ml_collections.ConfigDict(given))
    assert run.data == prepare.DataConfig() and run.optimizer == optimizer.OptimizerConfig()
    assert run.model.experts is None and run.mesh == training.MeshConfig()
    complete = schema.complete(training.RunConfig, given)
    assert complete.optimizer.b2 == 0.99 and complete.model.position == "rotary"
    assert schema.from_config_dict(training.RunConfig, complete) == run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer__learning_rat": 1.0}, "unknown key optimizer.learning_rat: did you mean opt"
         "imizer.learning_rate?"),
        ({"model__experts__experts": 3},
         "unknown key model.experts.experts: did you mean model.experts.num_experts?"),
        ({"zzz": 3}, "unknown key zzz: did you mean "),
        ({"train__steps": 2.5}, "train.steps=2.5 must be a int"),
        ({"train__steps": "9"}, "train.steps='9' must be a int"),
        ({"train__steps": True}, "train.steps=True must be a int"),
        ({"train__steps": None}, "train.steps=None must be a int"),
        ({"model__remat": 1}, "model.remat=1 must be a bool"),
        ({"optimizer__learning_rate": "0.1"}, "optimizer.learning_rate='0.1' must be a float"),
        ({"data__source": "code"}, "data.source='code' must be a tuple of str: ('code',)"),
        ({"data__source": (1, 2)}, "data.source=(1, 2) must be a tuple of str"),
        ({"data__source": 3}, "data.source=3 must be a tuple of str"),
        ({"model__experts__k": 9}, "experts.k=9 exceeds num_experts=4"),
    ],
)  # fmt: skip
def test_what_a_file_may_not_say(changes, message):
    with pytest.raises(ValueError) as error:
        read(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize("section", ["model", "optimizer"])
@pytest.mark.parametrize("value", [3, "x"])
def test_a_section_that_is_no_section(section, value):
    with pytest.raises(ValueError, match=section):
        read(**{section: value})


def test_missing_keys_are_all_named():
    given = as_dict()
    del given.train.steps, given.train.seq_len
    with pytest.raises(ValueError, match="missing train.steps, train.seq_len for a TrainConfig"):
        schema.from_config_dict(training.RunConfig, given)


def test_what_a_file_may_say_in_other_words():
    """A whole number for a float, a list for a tuple, None for no experts."""
    got = read(optimizer__learning_rate=1, data__source=["code"], model__experts=None)
    assert got.optimizer.learning_rate == 1.0 and type(got.optimizer.learning_rate) is float
    assert got.data.source == ("code",) and got.model.experts is None


def test_configs_are_values():
    """Frozen, equal by content and hashable: compiled functions are kept by them."""
    assert run_config().model == run_config().model
    assert len({run_config().model, run_config().model, tiny.model()}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        run_config().train.steps = 3


def test_capacity_factors_and_group_sizes():
    experts = tiny.moe_config(capacity_factor=1.5, eval_capacity_factor=3.0)
    assert (experts.factor(train=True), experts.factor(train=False)) == (1.5, 3.0)
    assert experts.tokens_per_group(16) == 16
    assert tiny.moe_config(group_size=32).tokens_per_group(16) == 32


def test_a_router_that_looks_ahead_is_refused(monkeypatch):
    """In a decoder, training would leak what evaluation by generating cannot know."""
    peeking = routing.ROUTERS["top_k"]._replace(causal="never")
    monkeypatch.setitem(routing.ROUTERS, "peeking", peeking)
    with pytest.raises(ValueError, match=r"'peeking' is not causal: .*in evaluation, too\)"):
        tiny.sparse(router="peeking")
    with pytest.raises(ValueError, match="in training; its evaluation is causal"):
        tiny.sparse(router="base")
    with pytest.raises(ValueError, match="'top_k' is not causal"):
        tiny.sparse(options=routing.ranked.Options(batch_priority=True))
    with pytest.raises(ValueError, match="'hash' goes by token ids, which are hidden"):
        tiny.model(mask_embedding=True, experts=tiny.moe_config(router="hash"))
    for consent in ({"causal": False}, {"allow_noncausal": True}):
        assert tiny.model(experts=tiny.moe_config(router="peeking"), **consent)


def test_options_are_those_of_the_router():
    """Given in a ConfigDict, completed with defaults, and refused under another router."""
    given = {"num_experts": 4, "d_ff": 8, "router": "top_p", "options": {"mass": 0.5}}
    got = schema.from_config_dict(configs.MoEConfig, ml_collections.ConfigDict(given))
    assert got.options == routing.top_p.Options(mass=0.5) and got.weight("entropy") == 1e-4
    assert got.weight("balance") == got.balance_weight == 0.01
    whole = schema.complete(configs.MoEConfig, given)
    assert whole.options.mass == 0.5 and whole.options.target_k == 0.0
    whole.router = "sigmoid"
    with pytest.raises(
        ValueError, match=r"unknown key options\.\w+: .* has reroute_rounds, .*bias_rate"
    ):
        schema.from_config_dict(configs.MoEConfig, whole)
    whole.router = "random"
    with pytest.raises(ValueError, match=r"unknown key options\.\w+: .* has no options"):
        schema.from_config_dict(configs.MoEConfig, whole)
    whole.router = "nobody"
    with pytest.raises(ValueError, match="experts.router='nobody' is not one of"):
        schema.from_config_dict(configs.MoEConfig, whole)
