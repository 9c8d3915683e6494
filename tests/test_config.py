"""Every wrong value is refused with its path, what came, and what to do."""

import dataclasses
import math

import pytest

from moe import config as configs
from moe import legacy, routing, sharding
from moe.data import prepare
from moe.training import config as training
from moe.training import optimizer
from tests import tiny

DROPLESS = {"dispatcher": "grouped", "capacity_factor": 0.0, "eval_capacity_factor": 0.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"router": "topk"}, "experts.router='topk' is not one of 'top_k', 'noisy_top_k'"),
        ({"dispatcher": "sort"}, "experts.dispatcher='sort' is not one of 'oracle', 'einsum'"),
        ({"num_experts": 0}, "experts.num_experts=0 must be above 0"),
        ({"d_ff": -1}, "experts.d_ff=-1 must be above 0"),
        ({"k": 0}, "experts.k=0 must be above 0"),
        ({"router_scale": -0.1}, "experts.router_scale=-0.1 must be at least 0"),
        ({"shared_experts": -1}, "experts.shared_experts=-1 must be at least 0"),
        ({"expert_dropout": 1.0}, "experts.expert_dropout=1.0 must be at least 0 and below 1"),
        ({"capacity_factor": 0.0}, "experts.capacity_factor=0.0 must be above 0"),
        ({"eval_capacity_factor": -1.0}, "experts.eval_capacity_factor=-1.0 must be at least 0"),
        ({"capacity_factor": float("nan")}, "experts.capacity_factor=nan must .*: give a number"),
        ({"group_size": -8}, "experts.group_size=-8 must be at least 0"),
        ({"balance_weight": -0.1}, "experts.balance_weight=-0.1 must be at least 0"),
        ({"z_weight": 1e30}, "experts.z_weight=1e[+]30 must be at least 0 and at most 1"),
        ({"router_scale": 1e38}, "experts.router_scale=1e[+]38 must be at least 0 and at most"),
        ({"router": ["top_k"]}, r"experts.router=\['top_k'\] is not one of 'top_k'"),
        ({"z_weight": -0.1}, "experts.z_weight=-0.1 must be at least 0"),
        ({"jitter": -0.1}, "experts.jitter=-0.1 must be at least 0"),
        ({"jitter": 1.0}, "experts.jitter=1.0 must be at least 0 and below 1: lower"),
        ({"k": 5}, "experts.k=5 exceeds num_experts=4"),
        ({"router": "random", "balance_weight": 0.01},
         "experts.balance_weight=0.01 does nothing with the 'random' router"),
        ({"router": "random", "z_weight": 0.001}, "experts.z_weight=0.001 does nothing"),
        ({"router": "random", "jitter": 0.1}, "experts.jitter=0.1 does nothing"),
        ({"router": "random", "router_scale": 0.1}, "experts.router_scale=0.1 does nothing"),
        ({"router": "hash", "router_dtype": "bfloat16"}, "'bfloat16' does nothing with the 'hash'"),
        ({"seats": 3}, "experts.seats=3 is for decoding alone"),
        ({"router_dtype": "float16"}, "router_dtype='float16' is not one of 'float32', 'bfloat16'"),
        ({"router": "soft", "group_size": 8},
         "'gather' cannot carry the DispatchMasks of the 'soft' router: use one of einsum"),
        ({"router": "random", "options": routing.ranked.Options()},
         r"experts.options=Options\(reroute_rounds=0, .* are not those of the 'random' router"),
        ({"options": routing.ranked.Options(reroute_rounds=-1)},
         "options.reroute_rounds=-1 must be at least 0"),
        ({"options": routing.ranked.Options(expert_groups=3)}, "o.expert_groups=3 must divide"),
        ({"options": routing.ranked.Options(expert_groups=2, groups_used=2)}, "limits nothing"),
        ({"options": routing.ranked.Options(reroute_rounds=1, batch_priority=True)}, "by position"),
        ({"options": routing.ranked.Options(expert_groups=0)}, "o.expert_groups=0 must divide"),
        ({"k": 2, "options": routing.ranked.Options(expert_groups=4, groups_used=2)},
         "groups_used=2 limits nothing at k=2"),
        ({"router": "hierarchical", "k": 2,
          "options": routing.hierarchical.Options(groups_used=0)}, "options.groups_used=0 k=2"),
        ({"router": "merged", "options": routing.merged.Options(columns=3)}, "columns=3 is less"),
        ({"router": "top_p", "options": routing.top_p.Options(target_k=0.5)}, "or from 1 to k=1"),
        ({"router": "top_p", "options": routing.top_p.Options(rate=0.5)}, "without a target_k"),
        ({"router": "expert_choice", "options": routing.expert_choice.Options(iterations=7)},
         "does nothing without `most`"),
        ({"router": "expert_choice", "k": 2, "eval_capacity_factor": 2.0,
          "options": routing.expert_choice.Options(most=3)}, "at least k .*=4"),
        ({"router": "top_p", "options": routing.top_p.Options(entropy_weight=-1.0)},
         "experts.options.entropy_weight=-1.0 must be at least 0"),
        ({"dispatcher": "grouped"}, "experts.capacity_factor=1.0 does nothing with .*'grouped'"),
        ({**DROPLESS, "eval_capacity_factor": 1.0},
         "experts.eval_capacity_factor=1.0 does nothing"),
        ({**DROPLESS, "expert_dropout": 0.1}, "experts.expert_dropout=0.1 does nothing"),
        ({**DROPLESS, "options": routing.ranked.Options(reroute_rounds=1)},
         "experts.options.reroute_rounds=1 does no"),
        ({**DROPLESS, "options": routing.ranked.Options(batch_priority=True)},
         "experts.options.batch_priority=True does nothing"),
        ({**DROPLESS, "router": "expert_choice"}, "'grouped' cannot carry the Slots"),
    ],
)  # fmt: skip
def test_experts(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.moe_config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({name: 0}, f"model.{name}=0 must be above 0") for name in (
            "vocab_size", "num_layers", "moe_every", "d_model", "num_heads", "d_head", "d_ff",
            "init_scale",
        )),
        ({"init_scale": 1e38}, "model.init_scale=1e[+]38 must be above 0 and at most 1"),
        ({"activation": "tanh"}, "model.activation='tanh' is not one of 'relu', 'gelu', 'geglu'"),
        ({"dense_activation": "tanh"}, "model.dense_activation='tanh' is not one of ''"),
        ({"position": "absolute"}, "model.position='absolute' is not one of 'rotary', 'relative'"),
        ({"dtype": "float16"}, "model.dtype='float16' is not one of 'float32', 'bfloat16'"),
        ({"d_head": 5}, "model.d_head=5 must be even for rotary positions"),
        ({"num_layers": 3}, "=3 less num_dense_layers=0 must be a positive multiple .*=2"),
        ({"num_dense_layers": 2}, "=2 less num_dense_layers=2 must be a positive multiple"),
        ({"num_dense_layers": -2}, "model.num_dense_layers=-2 must be at least 0"),
        ({"num_kv_heads": 3}, "model.num_heads=2 must be a multiple of num_kv_heads=3"),
        ({"num_kv_heads": -1}, "model.num_kv_heads=-1 must be at least 0"),
        ({"moe_every": 1, "dense_activation": "relu"},
         "'relu' does nothing when every layer is MoE"),
    ],
)  # fmt: skip
def test_models(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.model(**changes)


@pytest.mark.parametrize(
    ("experts", "mesh", "message"),
    [
        (
            {},
            {"implementation": "hopper"},
            "mesh.implementation='hopper' does nothing without .*'grouped'",
        ),
        ({}, {"ep_capacity_factor": 3.0}, "mesh.ep_capacity_factor=3.0 does nothing without"),
        (DROPLESS, {"transport": "all_gather"}, "mesh.transport='all_gather' does nothing with "),
        (DROPLESS, {"implementation": "cuda"}, "mesh.implementation='cuda' is not one of 'auto'"),
        (DROPLESS, {"ep_capacity_factor": 0.0}, "mesh.ep_capacity_factor=0.0 must be above 0"),
    ],
)
def test_how_tokens_travel(experts, mesh, message):
    with pytest.raises(ValueError, match=message):
        training.RunConfig(
            model=tiny.model(vocab_size=300, experts=tiny.moe_config(**experts)),
            train=training.TrainConfig(**TRAIN), data=prepare.DataConfig(vocab_size=300),
            mesh=training.MeshConfig(**mesh),
        )  # fmt: skip


def test_a_router_with_weights_says_how_large_they_start(monkeypatch):
    """From zeros it would send every token to expert 0."""
    forgetful = routing.ROUTERS["top_k"]._replace(common={})
    monkeypatch.setitem(routing.ROUTERS, "forgetful", forgetful)
    with pytest.raises(ValueError, match="'forgetful' router has weights .*put router_scale into"):
        configs.MoEConfig(num_experts=4, d_ff=8, router="forgetful")


def test_layers_with_experts():
    assert tiny.model(num_layers=6).moe_layers == 3 and tiny.model(experts=None).moe_layers == 0
    mixed = tiny.model(num_layers=5, moe_every=1, num_dense_layers=2, dense_activation="relu")
    assert mixed.moe_layers == 3
    assert (mixed.kv_heads, tiny.model(num_kv_heads=1).kv_heads) == (2, 1)


def test_a_relative_model_may_have_an_odd_head():
    assert tiny.model(position="relative", d_head=5).d_head == 5


TRAIN = {"steps": 10, "batch_size": 8, "seq_len": 8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({name: 0}, f"train.{name}=0 must be above 0") for name in (
            "steps", "batch_size", "seq_len", "accumulate", "log_every", "eval_every",
            "eval_batches", "checkpoint_every",
        )),
        ({"seed": -1}, "train.seed=-1 must be at least 0 and below 4294967296: raise it"),
        ({"seed": 2**32}, "train.seed=4294967296 must be at least 0 and below 4294967296: lower"),
        ({"seed": 2**63}, "train.seed=9223372036854775808 must be at least 0 and below 4294967296"),
        ({"steps": 2**31}, "train.steps=2147483648 must be above 0 and at most 2000000000: lower"),
        ({"test_batches": -1}, "train.test_batches=-1 must be at least 0"),
        ({"accumulate": 3}, "train.batch_size=8 is not a multiple of accumulate=3"),
    ],
)  # fmt: skip
def test_training(changes, message):
    with pytest.raises(ValueError, match=message):
        training.TrainConfig(**{**TRAIN, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sgd"}, "optimizer.name='sgd' is not one of 'adamw', 'adafactor'"),
        ({"schedule": "linear"}, "optimizer.schedule='linear' is not one of 'cosine', 'inv"),
        ({"learning_rate": 0.0}, "optimizer.learning_rate=0.0 must be above 0"),
        ({"learning_rate": math.inf}, "optimizer.learning_rate=inf must be above 0 and at most"),
        ({"name": "adafactor", "b1": 0.5}, "b1=0.5 does nothing with adafactor"),
        ({"warmup_steps": 2**31}, "optimizer.warmup_steps=2147483648 must be above 0 and at most"),
        ({"b1": 0.9999999999}, "optimizer.b1=0.9999999999 must be at least 0 and at most 0.999999"),
        ({"warmup_steps": 0}, "optimizer.warmup_steps=0 must be above 0"),
        ({"clip_norm": 0.0}, "optimizer.clip_norm=0.0 must be above 0"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay=-1.0 must be at least 0"),
        ({"b1": -0.1}, "optimizer.b1=-0.1 must be at least 0"),
        ({"b2": -0.1}, "optimizer.b2=-0.1 must be at least 0"),
        ({"b1": 1.0}, "optimizer.b1=1.0 must be at least 0 and at most 0.999999: lower it"),
        ({"b2": 1.5}, "optimizer.b2=1.5 must be at least 0 and at most 0.999999"),
    ],
)
def test_optimizers(changes, message):
    with pytest.raises(ValueError, match=message):
        optimizer.OptimizerConfig(**changes)


def run_config(model=None, data=None, **train) -> training.RunConfig:
    return training.RunConfig(
        model=model or tiny.model(vocab_size=300),
        data=data or prepare.DataConfig(vocab_size=300),
        train=training.TrainConfig(**{**TRAIN, **train}),
    )


def grouped(group_size) -> configs.ModelConfig:
    return tiny.model(vocab_size=300, experts=tiny.moe_config(group_size=group_size))


@pytest.mark.parametrize(
    ("mesh", "model", "message"),
    [
        ((1, 1, 8), {"num_heads": 4}, "model.num_heads=4 is not divisible by mesh.model=8"),
        ((2, 2, 2), {"num_kv_heads": 1}, "model.num_kv_heads=1 is .* by mesh.model=2"),
        ((2, 1, 4), {"num_heads": 4, "d_ff": 18}, "model.d_ff=18 is .* by mesh.model=4"),
        (
            (2, 2, 2),
            {"experts": tiny.moe_config(d_ff=9)},
            "model.experts.d_ff=9 is .* by mesh.model=2",
        ),
        ((2, 4, 1), {"d_model": 12}, "model.d_model=12 is .* by mesh.data x mesh.expert=8"),
        ((4, 1, 2), {"vocab_size": 301}, "model.vocab_size=301 is .* by mesh.model=2"),
    ],
)
def test_what_a_mesh_must_divide(mesh, model, message):
    model = tiny.model(**{"vocab_size": 300, **model})
    run = dataclasses.replace(
        run_config(model, prepare.DataConfig(vocab_size=model.vocab_size)),
        mesh=training.MeshConfig(zero=True),
    )
    with pytest.raises(ValueError, match=message):
        sharding.check(sharding.make_mesh(*mesh), run.shared())


def test_one_vocabulary():
    short = {"schedule": "wsd", "warmup_steps": 100}
    with pytest.raises(ValueError, match="leaves 80 before optimizer.schedule='wsd' decays, fewer"):
        run_config().replace(train={"steps": 100}, optimizer=short)
    with pytest.raises(ValueError, match="model.vocab_size=32 is not data.vocab_size=300: set bo"):
        run_config(model=tiny.model())


@pytest.mark.parametrize(
    ("group_size", "accumulate", "size", "number"),
    [(0, 1, 8, 8), (16, 1, 16, 4), (16, 2, 16, 2), (4, 1, 4, 16), (64, 1, 64, 1), (0, 4, 8, 2)],
)
def test_groups(group_size, accumulate, size, number):
    run = run_config(model=grouped(group_size), accumulate=accumulate)
    assert run.num_groups == {"": number} and number * size == run.micro_batch * 8
    assert run.micro_batch == 8 // accumulate


def test_a_dense_run_has_a_group_for_each_sequence():
    run = run_config(model=tiny.model(vocab_size=300, experts=None))
    assert run.num_groups == {"": 8} and run.micro_batch == 8


def test_groups_that_do_not_tile():
    with pytest.raises(ValueError, match="group_size=24 does not tile 8 sequences of 8 tokens"):
        run_config(model=grouped(24))


@pytest.mark.parametrize(("group_size", "accumulate"), [(64, 2), (32, 4), (128, 1)])
def test_a_group_larger_than_a_micro_batch_is_refused(group_size, accumulate):
    """Made smaller in silence, groups, drops and losses would follow `accumulate`."""
    with pytest.raises(ValueError, match=f"group_size={group_size}"):
        run_config(model=grouped(group_size), accumulate=accumulate)


def test_replace():
    run = run_config().replace(train={"seed": 3, "steps": 7}, optimizer={"b1": 0.5})
    assert (run.train.seed, run.train.steps, run.optimizer.b1) == (3, 7, 0.5)
    assert run.train.batch_size == 8 and run_config().train.seed == 0
    with pytest.raises(ValueError, match="train.steps=0 must be above 0"):
        run.replace(train={"steps": 0})


def test_the_kernel_that_was_the_default_is_todays_default():
    """Runs wrote it where nothing reads it, which is refused today."""
    old = {"model": {"experts": None}, "mesh": {"kernel": "blocks", "zero": True}}
    assert legacy.run_config(old)["mesh"] == {"zero": True}
    old["mesh"]["kernel"] = "hopper"
    assert legacy.run_config(old)["mesh"] == {"implementation": "hopper", "zero": True}
