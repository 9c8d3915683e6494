"""Checkpoints of transformers: its logits, its bytes, and every wrong file refused by name."""

import dataclasses
import functools
import json
import pathlib
import shutil

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


@pytest.fixture
def copy(tmp_path):
    """A copy to spoil: its folder, tensors and config."""
    folder = tmp_path / "copy"
    shutil.copytree(GOLDENS / "mixtral", folder)
    return folder


def rewrite(folder, change):
    """Its tensors, changed."""
    tensors = st.load_file(folder / files.SINGLE)
    changed = change(tensors) or tensors
    contiguous = {name: np.ascontiguousarray(x) for name, x in changed.items()}
    st.save_file(contiguous, folder / files.SINGLE, metadata={"format": "pt"})


def say(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


EXPERT = "model.layers.1.block_sparse_moe.experts.3.w1.weight"
WRONG_TENSORS = {
    "a tensor dropped": (lambda t: {k: v for k, v in t.items() if k != EXPERT}, f"no {EXPERT}"),
    "a tensor added": (lambda t: t | {"model.bias": t["lm_head.weight"]}, "has model.bias"),
    "a tensor transposed": (lambda t: t | {EXPERT: t[EXPERT].T}, rf"{EXPERT} is \[16, 24\]"),
    "another dtype": (lambda t: t | {EXPERT: t[EXPERT].astype(np.float16)}, f"{EXPERT} is float16"),
    "integers": (lambda t: t | {EXPERT: t[EXPERT].astype(np.int32)}, f"{EXPERT} in I32"),
}
WRONG_CONFIGS = {
    "more experts than there are": ({"num_local_experts": 5}, "experts.4.w1.weight"),
    "fewer experts": ({"num_local_experts": 3}, "experts.3.w1.weight.*knows nothing"),
    "two numbers of experts": ({"num_experts": 8}, "should be one number"),
    "a missing number": ({"num_experts_per_tok": ...}, "no num_experts_per_tok: expected a int"),
    "a missing activation": ({"hidden_act": ...}, "no hidden_act"),
    "a missing window": ({"sliding_window": ...}, "no sliding_window.*null if there is none"),
    "a missing theta": ({"rope_parameters": ...}, "no rope_theta"),
    "scaled positions": (
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}},
        "rope_type='yarn'",
    ),
    "an unknown field": ({"attention_sinks": 4}, "has attention_sinks, which this code does not"),
    "another activation": ({"hidden_act": "gelu"}, "hidden_act='gelu'.*only 'silu'"),
    "a word for a number": ({"hidden_size": "16"}, "hidden_size='16': expected a int"),
    "another family": ({"model_type": "gpt2"}, "'gpt2' is not one of"),
    "more key heads": ({"num_key_value_heads": 4}, r"k_proj.weight is \[8, 16\]"),
}


@pytest.mark.parametrize("what", WRONG_TENSORS)
def test_wrong_tensors_are_refused_by_name(copy, what):
    change, message = WRONG_TENSORS[what]
    rewrite(copy, change)
    with pytest.raises(ValueError, match=message):
        interop.load(copy)


@pytest.mark.parametrize("what", WRONG_CONFIGS)
def test_wrong_configs_are_refused_by_name(copy, what):
    changes, message = WRONG_CONFIGS[what]
    say(copy, **changes)
    with pytest.raises(ValueError, match=message):
        interop.load(copy)


def test_what_an_old_file_lacks_may_be_given(tmp_path):
    """Llama 1 and 2 as released: no theta, and the angles of every layer in the file."""
    shutil.copytree(GOLDENS / "llama", tmp_path / "old")
    say(tmp_path / "old", rope_parameters=...)
    with pytest.raises(ValueError, match=r"no rope_theta.*given=\{'rope_theta': ...\}"):
        interop.load(tmp_path / "old")
    H = loaded("llama")[0].d_head
    angles = (500.0 ** (-np.arange(0, H, 2) / H)).astype(np.float32)
    name = "model.layers.{}.self_attn.rotary_emb.inv_freq"
    rewrite(tmp_path / "old", lambda t: t | {name.format(i): angles for i in range(2)})
    config, params = interop.load(tmp_path / "old", given={"rope_theta": 500.0})
    assert config == loaded("llama")[0]
    tiny.assert_equal(params, loaded("llama")[1])
    with pytest.raises(ValueError, match=r"layers.0.*inv_freq is not what config.json makes it"):
        interop.load(tmp_path / "old", given={"rope_theta": 1e4})
    with pytest.raises(ValueError, match="has hidden_size of its own: do not give it"):
        interop.load(tmp_path / "old", given={"rope_theta": 500.0, "hidden_size": 8})


def test_t5_as_it_was_released(tmp_path):
    """A table that nothing reads, outputs that stay in float32, two names of one activation."""
    shutil.copytree(GOLDENS / "t5", tmp_path / "old")
    table = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    rewrite(tmp_path / "old", lambda t: t | {table: np.ones((32, 3), np.float32)})
    say(tmp_path / "old", output_past=True, dense_act_fn="relu", is_gated_act=False)
    tiny.assert_equal(interop.load(tmp_path / "old")[1], loaded("t5")[1])
    rewrite(
        tmp_path / "old",
        lambda t: {k: x if ".wo." in k else x.astype(np.float16) for k, x in t.items()},
    )
    say(tmp_path / "old", dtype="float16")
    assert interop.load(tmp_path / "old")[0] == loaded("t5")[0]
    say(tmp_path / "old", dense_act_fn="gelu_new")
    with pytest.raises(ValueError, match="dense_act_fn='gelu_new', and this code computes only"):
        interop.load(tmp_path / "old")


def test_an_unknown_field_may_be_declared_harmless(copy):
    say(copy, attention_sinks=4)
    tiny.assert_equal(interop.load(copy, ignore=("attention_sinks",))[1], loaded("mixtral")[1])


def test_truncated_files_are_refused(copy):
    path = copy / files.SINGLE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{files.SINGLE} cannot be read.*Fetch it again"):
        interop.load(copy)


def test_pickles_are_refused_with_the_command_that_converts(copy):
    (copy / files.SINGLE).rename(copy / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin.*pickled(.|\n)*AutoModelForCausalLM"):
        interop.load(copy)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_stays_in_its_folder(copy, name):
    (copy / files.SINGLE).rename(copy / "other.safetensors")
    (copy / files.INDEX).write_text(json.dumps({"weight_map": {EXPERT: name}}))
    with pytest.raises(ValueError, match="not a file of its own folder"):
        interop.load(copy)


def test_an_index_is_that_of_its_files(copy):
    tensors = st.load_file(copy / files.SINGLE)
    (copy / files.INDEX).write_text("{}")
    with pytest.raises(ValueError, match="has both"):
        interop.load(copy)
    (copy / files.SINGLE).rename(copy / "other.safetensors")
    index = dict.fromkeys(tensors, "other.safetensors")
    index["model.ghost"] = index.pop(EXPERT)
    (copy / files.INDEX).write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ValueError, match="promises model.ghost"):
        interop.load(copy)
    del index["model.ghost"]
    (copy / files.INDEX).write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ValueError, match=f"does not name {EXPERT}"):
        interop.load(copy)


def test_a_folder_with_a_checkpoint_is_not_written_over(copy):
    config, params = loaded("mixtral")
    with pytest.raises(ValueError, match="has config.json, model.safetensors already"):
        interop.save(copy, config, params, "mixtral")


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


def test_copies_are_copies(tmp_path):
    """Released Switch files hold the embedding four times."""
    folder = tmp_path / "copy"
    shutil.copytree(GOLDENS / "switch_drops", folder)
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    rewrite(folder, lambda t: t | {name: t["shared.weight"] for name in names})
    tiny.assert_equal(interop.load(folder)[1], loaded("switch_drops")[1])
    rewrite(folder, lambda t: t | {names[1]: t["shared.weight"] + 1})
    with pytest.raises(ValueError, match=f"{names[1]} is not shared.weight, whose copy"):
        interop.load(folder)


def test_a_capacity_of_its_own_and_factors_exclude_each_other():
    experts = loaded("switch_drops")[0].experts
    with pytest.raises(ValueError, match=r"experts.capacity_factor=1.25 does nothing with"):
        dataclasses.replace(experts, capacity_factor=1.25)
