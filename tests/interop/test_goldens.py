"""Checkpoints of transformers: its logits, its bytes, and every wrong file refused by name."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as st

from moe import interop, models
from moe.interop import files
from tests import tiny
from tests.interop import published

GOLDENS = pathlib.Path(__file__).parent / "goldens"
NAMES = sorted(path.name for path in GOLDENS.iterdir())
CLOSE = 1e-4  # of logits with a standard deviation of 0.3 to 1.3


@functools.cache
def loaded(name):
    return interop.load(GOLDENS / name)


def family_of(name):
    return json.loads((GOLDENS / name / "config.json").read_text())["model_type"]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name):
    config, params = loaded(name)
    expected = st.load_file(GOLDENS / name / "expected.safetensors")
    assert expected["logits"].std() > 0.25
    got = published.logits(config, params, expected)
    np.testing.assert_allclose(got, expected["logits"], rtol=0, atol=CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_has_the_bytes_that_were_read(name, tmp_path):
    """And a config.json that is read as the same model."""
    config, params = loaded(name)
    layout = "fused" if name.endswith("_fused") else None
    interop.save(tmp_path / "out", config, params, family_of(name), layout=layout)
    (theirs, ours) = ((p / files.SINGLE).read_bytes() for p in (GOLDENS / name, tmp_path / "out"))
    assert ours == theirs
    again, _ = interop.load(tmp_path / "out")
    assert again == config


def test_both_layouts_are_one_model():
    for name in ("mixtral", "olmoe"):
        (one, ours), (two, theirs) = loaded(name), loaded(f"{name}_fused")
        assert one == two
        tiny.assert_equal(ours, theirs)


@pytest.mark.parametrize("name", ["mixtral", "mixtral_fused", "olmoe"])
def test_a_checkpoint_is_read_onto_a_mesh_and_written_from_it(name, tmp_path):
    """Every device gets its own experts, heads and columns."""
    want = loaded(name)[1]
    with tiny.on("2x2x2", zero=True):
        config, params = interop.load(GOLDENS / name)
        shapes = models.parameter_shapes(config)
        same = jax.tree.map(lambda x, s: x.sharding.spec == s.sharding.spec, params, shapes)
        assert all(jax.tree.leaves(same))
        tiny.assert_equal(tiny.host(params), tiny.host(want))
        family = json.loads((GOLDENS / name / "config.json").read_text())["model_type"]
        layout = "fused" if name.endswith("fused") else None
        interop.save(tmp_path / "out", config, params, family, layout=layout)
    written = (tmp_path / "out" / files.SINGLE).read_bytes()
    assert written == (GOLDENS / name / files.SINGLE).read_bytes()


def test_several_files_are_one(tmp_path):
    config, params = loaded("mixtral")
    interop.save(tmp_path / "out", config, params, "mixtral", max_file_bytes=10_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 3
    tiny.assert_equal(interop.load(tmp_path / "out")[1], params)


def test_low_precision_is_read_and_written(tmp_path):
    """bfloat16 has 8 bits; what was rounded once is written as it was."""
    config, params = loaded("mixtral")
    interop.save(tmp_path / "low", config, params, "mixtral", dtype="bfloat16")
    _, low = interop.load(tmp_path / "low")
    tiny.assert_equal(low, jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), params))
    interop.save(tmp_path / "again", config, low, "mixtral", dtype="bfloat16")
    one, two = ((tmp_path / n / files.SINGLE).read_bytes() for n in ("low", "again"))
    assert one == two and len(one) < 0.6 * (GOLDENS / "mixtral" / files.SINGLE).stat().st_size


def test_what_was_trained_here_is_published_only_as_what_it_is(tmp_path):
    """Another position, activation or router is no Mixtral."""
    config, params = loaded("mixtral")
    for changes, message in [
        ({"scale_embedding": True}, "no scale_embedding=True"),
        ({"num_dense_layers": 1}, "no num_dense_layers=1"),
        ({"norm_epsilon": 1e-3}, None),
    ]:
        other = type(config)(**vars(config) | changes)
        if message is None:
            interop.save(tmp_path / "out", other, params, "mixtral")
            continue
        with pytest.raises(ValueError, match=message):
            interop.save(tmp_path / "out", other, params, "mixtral")
    with pytest.raises(ValueError, match="has no experts, and the model has some"):
        interop.save(tmp_path / "two", config, params, "llama")


def test_every_number_of_the_file_reaches_the_model(tmp_path):
    """Nothing stays random: ones in, ones out."""
    config, params = loaded("olmoe")
    ones = jax.tree.map(jnp.ones_like, params)
    interop.save(tmp_path / "out", config, ones, "olmoe")
    tiny.assert_equal(interop.load(tmp_path / "out")[1], ones)


def test_what_a_file_of_switch_cannot_say_is_not_written(tmp_path):
    """The activation of its dense layers, and groups other than a sequence."""
    config, params = loaded("switch_drops")
    grouped = dataclasses.replace(config, experts=config.experts.derived(group_size=40))
    for other, message in (
        (dataclasses.replace(config, dense_activation="gelu"), "no dense_activation='gelu'"),
        (grouped, "no experts.group_size=40"),
    ):
        with pytest.raises(ValueError, match=message):
            interop.save(tmp_path / "out", other, params, "switch_transformers")


def test_drops_that_no_file_can_say_are_not_left_out(tmp_path):
    """A decoder with slots is not written as one that computes every choice; nor the reverse."""
    config, params = loaded("mixtral")
    roomy = {"capacity_factor": 1.0, "eval_capacity_factor": 1.0}
    slots = config.experts.derived(dispatcher="gather", **roomy)
    with pytest.raises(ValueError, match="no experts.dropless=False, only True"):
        interop.save(
            tmp_path / "out", dataclasses.replace(config, experts=slots), params, "mixtral"
        )
    config, params = loaded("switch_drops")
    dropless = config.experts.derived(dispatcher="grouped", expert_capacity=0)
    with pytest.raises(ValueError, match="set experts.expert_capacity, and both capacity"):
        interop.save(
            tmp_path / "out", dataclasses.replace(config, experts=dropless), params,
            "switch_transformers",
        )  # fmt: skip


def test_the_same_model_may_be_said_otherwise(tmp_path):
    """As many layers in the encoder, unsaid."""
    same = dataclasses.replace(loaded("t5_v1_1")[0], num_layers=2, encoder_layers=0)
    params = models.init(same, jax.random.key(0))
    interop.save(tmp_path / "out", same, params, "t5")
    tiny.assert_equal(interop.load(tmp_path / "out")[1], params)


def test_the_golden_of_switch_drops_tokens():
    """20 tokens for 3 experts of 4 slots."""
    config, params = loaded("switch_drops")
    expected = st.load_file(GOLDENS / "switch_drops" / "expected.safetensors")
    roomy = dataclasses.replace(config, experts=config.experts.derived(expert_capacity=20))
    difference = np.abs(published.logits(roomy, params, expected) - expected["logits"]).max()
    assert difference > 0.05


def test_a_capacity_of_its_own_and_factors_exclude_each_other():
    experts = loaded("switch_drops")[0].experts
    with pytest.raises(ValueError, match=r"experts.capacity_factor=1.25 does nothing with"):
        dataclasses.replace(experts, capacity_factor=1.25)
