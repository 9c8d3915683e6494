"""Files that are wrong are refused by name; what old files have or lack is known."""

import json
import shutil

import numpy as np
import pytest
from safetensors import numpy as st

from moe import interop
from moe.interop import files
from tests import tiny
from tests.interop.test_goldens import GOLDENS, loaded


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


def test_a_folder_with_a_checkpoint_is_not_written_over(copy):
    config, params = loaded("mixtral")
    with pytest.raises(ValueError, match="has config.json, model.safetensors already"):
        interop.save(copy, config, params, "mixtral")
