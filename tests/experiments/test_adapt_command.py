"""A run's folder, or a published checkpoint's, becomes another of its kind."""

import contextlib
import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import pytest
import tokenizers

from experiments import adapt, made
from moe import adapt as methods
from moe import errors, interop, sealed
from moe.data import corpora
from moe.training import checkpoint, moments, runs, workdirs
from tests import tiny
from tests.training import toys

GOLDENS = pathlib.Path(__file__).parents[1] / "interop" / "goldens"
ASKED = {
    "number": 2, "domain": "", "text": adapt.USUAL, "experts": 0, "k": 2, "moe_every": 1,
    "parts": 1, "share": 0.0, "seed": 0, "packed": "", "devices": 1,
    "of_domains": (), "parents": (),
}  # fmt: skip
EXPERTS = tiny.moe_config(num_experts=8, k=2, capacity_factor=8.0, eval_capacity_factor=8.0)


def adapted(workdir, out, how, **changes):
    adapt.adapted(str(workdir), str(out), how, **ASKED | changes)
    return sealed.read_json(out / "adapted.json")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The folder of a run with these experts."""
    monkeypatch.setattr(runs.prepare, "prepare", lambda config: toys.data())

    def make(experts):
        model = tiny.model(vocab_size=toys.V, num_layers=1, moe_every=1, d_ff=8, experts=experts)
        run = toys.run_config(mesh={"data": 1, "expert": 1})
        run = dataclasses.replace(run, model=model)
        workdirs.claim(run, tmp_path / "run", toys.data())
        with contextlib.closing(checkpoint.Checkpoints(tmp_path / "run")) as checkpoints:
            checkpoints.save(3, tiny.state(model, run.tx)._replace(step=jnp.int32(3)), 1.0)
        return tmp_path / "run"

    return make


def test_a_run(trained, tmp_path, capsys):
    """Pruned, merged, merged again, merged into one, given experts: each is a run."""
    pruned = adapted(trained(EXPERTS), tmp_path / "pruned", "prune_reap", experts=6)
    found = runs.load_run(tmp_path / "pruned")
    assert found.run.model.experts.num_experts == 6 and int(found.state.step) == 3
    assert pruned["parameters"] < pruned["parameters_before"]
    fewer = adapted(tmp_path / "pruned", tmp_path / "fewer", "merge_aligned", experts=4)
    assert fewer["loss_before"] == pytest.approx(pruned["loss"])
    adapted(tmp_path / "fewer", tmp_path / "two", "merge_use", experts=2)
    run, _, state = runs.load_run(tmp_path / "two")
    assert run.model.experts.num_experts == 2 and run.model.experts.options.columns == 6
    assert state.router_state["expert"].shape == (1, 6)
    dense = adapted(tmp_path / "two", tmp_path / "dense", "merge_use", experts=0)
    assert runs.load_run(tmp_path / "dense").run.model.experts is None
    again = adapted(tmp_path / "dense", tmp_path / "again", "upcycle", experts=4, k=4, parts=2)
    assert again["loss_before"] == pytest.approx(dense["loss"])
    assert again["loss"] == pytest.approx(dense["loss"], rel=1e-5)
    assert f"loss on 2 batches, nats: {dense['loss']:.4f} before" in capsys.readouterr().out


def test_copies_keep_the_moments_of_the_parent(trained, tmp_path):
    """Those of the feed-forward for every expert; what is cut into parts begins anew."""
    workdir = trained(None)
    parent = runs.load_run(workdir)
    state = parent.state
    adam = jax.tree.map(lambda x: x + 1, moments.of(state.optimizer))
    optimizer = moments.replaced(state.optimizer, moments.named(state.optimizer, adam))
    shutil.rmtree(workdir / "checkpoints")
    shutil.rmtree(workdir / "checksums")
    with contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints:
        checkpoints.save(3, state._replace(optimizer=optimizer), 1.0)
    for out, more, has in (("copies", {}, True), ("parts", {"parts": 2}, False)):
        made.upcycled([workdir], tmp_path / out, experts=4, k=2, seed=0, **more)
        found = moments.of(runs.load_run(tmp_path / out).state.optimizer)
        bank = found.mu["block"]["layer_0"]["moe"]
        assert int(found.count) == has and (bank["experts"]["w_in"] == has).all()
        assert (found.nu["embed"] == has).all() and not bank["router"].any()


def test_a_model_of_one_domain(trained, tmp_path):
    """It reads that domain's text alone, in its own tokens, and says what the whole model says."""
    experts = tiny.moe_config(
        num_experts=4, router="domain", k=1, balance_weight=0.0, z_weight=0.0, router_scale=0.0
    )
    workdir = trained(experts)
    found = adapted(workdir, tmp_path / "one", "domains", of_domains=("toy",))
    assert found["loss"] == found["loss_before"]
    run, *_ = runs.load_run(tmp_path / "one")
    assert run.model.experts.num_experts == 1
    assert run.data.source == ("toy",) and run.data.tokenizer.endswith("tokenizer.json")
    with pytest.raises(errors.UserError, match="--of_domains='other'"):
        adapted(workdir, tmp_path / "none", "domains", of_domains=("other",))
    with pytest.raises(errors.UserError, match="--of_domains=.* does nothing with --how=int8"):
        adapted(workdir, tmp_path / "none", "int8", of_domains=("toy",))


def test_several_parents(trained, tmp_path):
    """Experts are copies of theirs in turn; another tokenizer is refused."""
    workdir = trained(None)
    other = tmp_path / "other"
    shutil.copytree(workdir, other)
    shutil.rmtree(other / "checkpoints")
    shutil.rmtree(other / "checksums")
    _, _, state = runs.load_run(workdir)
    with contextlib.closing(checkpoint.Checkpoints(other)) as checkpoints:
        twice = jax.tree.map(lambda x: 2 * x, state.params)
        checkpoints.save(3, state._replace(params=twice), 1.0)
    adapted(workdir, tmp_path / "both", "upcycle", experts=4, k=2, parents=(str(other),))
    made = runs.load_run(tmp_path / "both").params["block"]["layer_0"]["moe"]["experts"]["w_in"]
    own = state.params["block"]["layer_0"]["ffn"]["w_in"]
    tiny.assert_equal(*(tiny.host(x) for x in (made[:, 2], own)))
    tiny.assert_equal(*(tiny.host(x) for x in (made[:, 3], 2 * own)))
    said = sealed.read_json(other / "data.json")
    said["sha256"]["tokenizer.json"] = "other"
    sealed.write_json(other / "data.json", said)
    with pytest.raises(errors.UserError, match="--parents has .*, whose tokenizer is another"):
        adapted(workdir, tmp_path / "no", "upcycle", experts=4, parents=(str(other),))


def test_a_packed_file(trained, tmp_path, capsys):
    """What is written is what the model computes with."""
    workdir = trained(EXPERTS)
    found = adapted(workdir, tmp_path / "qmoe", "qmoe")
    assert found["weights"] == 8 * 2 * 8 * 8 and found["entropy"] < found["bits"] < 16
    assert "bits a weight" in capsys.readouterr().out
    file = str(tmp_path / "qmoe" / adapt.PACKED)
    back = adapted(workdir, tmp_path / "back", "unpack", packed=file)
    assert back["loss"] == found["loss"] != found["loss_before"]
    pruned = tmp_path / "pruned"
    adapted(workdir, pruned, "prune_use", experts=4)
    with pytest.raises(errors.UserError, match="the packed experts are of another model"):
        adapted(pruned, tmp_path / "wrong", "unpack", packed=file)


def test_placed(trained, tmp_path, capsys):
    """One domain on one device: nothing can leave. The model is the same."""
    found = adapted(trained(EXPERTS), tmp_path / "placed", "place")
    assert found["leaving"] == found["leaving_random"] == 0.0
    assert found["loss"] == pytest.approx(found["loss_before"])
    assert "choices that leave their device: 0.0% before, 0.0% now" in capsys.readouterr().out


def test_a_mesh(trained, tmp_path):
    workdir = trained(EXPERTS)
    want = adapted(workdir, tmp_path / "one", "qmoe")
    with tiny.on("2x4x1"):
        got = adapted(workdir, tmp_path / "eight", "qmoe")
    assert got["loss"] == pytest.approx(want["loss"], rel=1e-3)


def test_what_a_mesh_does_not_divide(trained, tmp_path):
    workdir = trained(EXPERTS)
    with tiny.on("2x4x1"), pytest.raises(errors.UserError, match="--experts=6 is not divisible by"):
        adapted(workdir, tmp_path / "out", "prune_use", experts=6)


def test_a_dense_model(trained, tmp_path):
    """What is for experts says so, and leaves nothing behind."""
    workdir = trained(None)
    for how in ("int8", "int4", "qmoe", "prune_use", "merge_use", "place", "expand"):
        asked = {"experts": 4} if "experts" in methods.METHODS[how].reads else {}
        with pytest.raises(errors.UserError, match="this model is dense"):
            adapted(workdir, tmp_path / "out", how, **asked)
        assert not (tmp_path / "out").exists()
    plain = adapted(workdir, tmp_path / "plain", "plain")
    assert plain["loss"] == plain["loss_before"]


def published(folder, name):
    """A golden checkpoint with a tokenizer of a few letters."""
    shutil.copytree(GOLDENS / name, folder)
    ids = {letter: 2 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz ")} | {"?": 0}
    found = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="?"))
    found.add_special_tokens([f"<extra_id_{i}>" for i in reversed(range(3))])
    found.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    found.save(str(folder / "tokenizer.json"))
    content = json.loads((folder / "config.json").read_text()) | {"eos_token_id": 1}
    if content.get("is_encoder_decoder"):
        content["decoder_start_token_id"] = 0
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def text(monkeypatch):
    monkeypatch.setattr(corpora, "documents", lambda name: iter(["some words of text"] * 2000))


@pytest.mark.usefixtures("text")
def test_a_published_model(tmp_path):
    """A Llama becomes a Mixtral, which says the same; half of its experts go, and it is a Llama."""
    llama = published(tmp_path / "llama", "llama")
    found = adapted(llama, tmp_path / "mixtral", "upcycle", number=1, experts=4)
    assert found["loss"] == pytest.approx(found["loss_before"], rel=1e-5)
    assert interop.load(tmp_path / "mixtral")[0].experts.num_experts == 4
    adapted(tmp_path / "mixtral", tmp_path / "fewer", "prune_reap", number=1, experts=2)
    back = adapted(tmp_path / "fewer", tmp_path / "back", "merge_mean", number=1, experts=0)
    assert back["loss"] == pytest.approx(found["loss"], rel=1e-5)
    assert sealed.read_json(tmp_path / "back" / "config.json")["model_type"] == "mistral"


@pytest.mark.usefixtures("text")
def test_a_published_encoder_decoder(tmp_path):
    """Half of a Switch's experts go, and what is left is a Switch, whose weights have 8 bits."""
    switch = published(tmp_path / "switch", "switch_drops")
    before = interop.load(switch)[0].experts.num_experts
    found = adapted(switch, tmp_path / "fewer", "prune_reap", number=1, experts=before // 2)
    assert found["loss"] != found["loss_before"]
    made, params = interop.load(tmp_path / "fewer")
    assert made.experts.num_experts == before // 2
    assert params["decoder"]["block"]["layer_1"]["moe"]["experts"]["w_in"].shape[1] == before // 2
    again = adapted(tmp_path / "fewer", tmp_path / "ternary", "qmoe", number=1)
    assert again["loss_before"] == pytest.approx(found["loss"]) and again["zeros"] > 0.1
    with pytest.raises(errors.UserError, match="the family of a model to be adapted so='switch"):
        adapted(switch, tmp_path / "no", "merge_mean", number=1)
    content = (switch / "tokenizer.json").read_text().replace("<extra_id_0>", "<other>")
    (switch / "tokenizer.json").write_text(content)
    with pytest.raises(errors.UserError, match="the tokenizer has no <extra_id_0>"):
        adapted(switch, tmp_path / "no", "prune_reap", number=1, experts=1)


@pytest.mark.usefixtures("text")
def test_what_cannot_be(trained, tmp_path):
    run = trained(EXPERTS)
    cases = [
        ({"how": "shrink"}, "--how='shrink' is not one of"),
        ({"how": "prune_use", "experts": 9}, "expected from 1 to 8 experts to stay"),
        ({"how": "prune_use", "domain": "code"}, "--domain='code' is not one of 'toy'"),
        ({"how": "prune_use", "k": 7}, "--k=7 does nothing with --how=prune_use"),
        ({"how": "int8", "experts": 4}, "--experts=4 does nothing with --how=int8"),
        ({"how": "place", "domain": "toy"}, "--domain=toy does nothing with --how=place"),
        ({"how": "qmoe", "text": "code"}, "--text=code does nothing with a run"),
        ({"how": "expand", "experts": 12}, "expected a multiple of the 8 experts"),
        ({"how": "upcycle", "experts": 4}, "the parent has experts already"),
    ]
    for asked, said in cases:
        with pytest.raises(errors.UserError, match=said):
            adapted(run, tmp_path / "out", **asked)
        assert not (tmp_path / "out").exists()
    with pytest.raises(errors.UserError, match="holds a model already"):
        adapted(run, run, "prune_use")
    with pytest.raises(errors.UserError, match="--out= is empty"):
        adapt.adapted(str(run), "", "prune_use", **ASKED)
    with pytest.raises(errors.UserError, match="has no config.json"):
        adapted(tmp_path / "nowhere", tmp_path / "out", "prune_use")
    olmoe = published(tmp_path / "olmoe", "olmoe")
    with pytest.raises(errors.UserError, match="'olmoe' is not one of"):
        adapted(olmoe, tmp_path / "out", "merge_use", experts=0, number=1)
