"""Every notebook runs from start to end, and is kept without outputs."""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import nbclient
import nbformat
import pytest

from experiments import grid, records
from moe import objectives, routing
from moe.data import prepare, vowels
from moe.routing import assignment, stats
from moe.training import config, files, metrics
from tests import tiny
from tests.experiments import grids

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BY_HAND, SCALING, EXPERTS, IMPORT = NOTEBOOKS[:4]
LESSONS = NOTEBOOKS[4:]  # each draws one figure
V = 300

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


FRESH = """
%reset -f
import os, sys
for name in [name for name in sys.modules if name.partition(".")[0] == "moe"]:
    del sys.modules[name]
sys.path[:] = [path for path in sys.path if path != {root!r}]
os.environ.update({environment!r})
os.chdir({start!r})
"""


PRAAT = """
import types

import numpy as np


def call(*words):
    \"\"\"A table of four vowels of 75 speakers.\"\"\"
    rng = np.random.default_rng(0)
    signs = {{"i": (300, 2500), r"\\ic": (450, 2100), r"\\as": (900, 1100), r"\\vt": (650, 1300)}}
    lines = [{head!r}]
    for speaker in range(1, 76):
        for sign, means in signs.items():
            first, second = (mean + 10 * rng.normal() for mean in means)
            lines.append("\\t".join(map(str, ("m", "m", speaker, "", sign, 160, first, second, 0))))
    return "\\n".join(lines)


praat = types.SimpleNamespace(call=call)
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A kernel as strict about shapes as the tests, with nothing from the home directory.

    Notebooks run in it one after another: each begins with no names and no module of ours, but need
    not import JAX again. In the place of Praat is a module with a table of made-up vowels.
    """
    modules = tmp_path_factory.mktemp("modules")
    (modules / "parselmouth.py").write_text(PRAAT.format(head="\t".join(vowels.COLUMNS)))
    home = tmp_path_factory.mktemp("jupyter")
    folders = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    client = nbclient.NotebookClient(nbformat.v4.new_notebook(), timeout=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUMPY_RANK_PROMOTION", "raise")
        for name in folders:
            patch.setenv(name, str(home / name))
        patch.setenv("PYTHONPATH", str(modules))
        for name in ("JUPYTER_PATH", "MPLBACKEND"):
            patch.delenv(name, raising=False)
        with client.setup_kernel():
            yield client


@pytest.fixture
def folder(tmp_path):
    """A finished study of two seeds, of which e4_random was recorded without its metrics."""
    root = tmp_path / "study"
    models = {
        "dense": tiny.model(vocab_size=V, experts=None),
        "e4": tiny.model(vocab_size=V, moe_every=1, experts=tiny.moe_config(k=2)),
        "e4_random": tiny.model(
            vocab_size=V, moe_every=1, experts=tiny.moe_config(router="random")
        ),
    }
    runs = {name: run(model) for name, model in models.items()}
    for name, model in models.items():
        for seed in range(2):
            write_run(root / name / f"seed{seed}", model.experts, seed)
    seconds = dict.fromkeys(models, 0.1)
    timing = {"machine": {"devices": ["cpu"]}, "median": seconds, "least": seconds}
    (root / "timing.json").write_text(json.dumps(timing))
    records.collect(runs, root, seeds=range(2))
    (root / "e4_random" / "seed0" / "metrics.jsonl").unlink()
    return root


def run(model):
    train = config.TrainConfig(steps=4, batch_size=tiny.B, seq_len=tiny.T)
    data = prepare.DataConfig(vocab_size=V)
    return config.RunConfig(model=model, train=train, data=data)


def write_run(path, experts, seed):
    """The files that `moe.training.loop` leaves, with routing of random logits."""
    path.mkdir(parents=True)
    writer = metrics.Writer(path / "metrics.jsonl", 0)
    for step in range(1, 5):
        measured = routed(experts, 10 * seed + step)
        writer.write({"step": step, "split": "train", **measured})
        writer.write({"step": step, "split": "validation", "seconds": 0.1 * step, **measured})
    writer.close()
    rows = {"test_documents_nll": [50.0, 60.0 + seed], "test_documents_tokens": [10, 10]}
    rows |= {"test_documents": [0, 1], "machine": files.machine()}
    result = {"steps": 4, "seconds": 0.4, "test_nll": 5.0 + seed, "test_bits_per_byte": 2.0, **rows}
    (path / "result.json").write_text(json.dumps(result))


def routed(experts, seed):
    """What a training step of two MoE layers measures; the loss falls with the seed."""
    sums = objectives.contract.Sums(tiny.B * (6.0 - 0.1 * seed), float(tiny.B), None)
    if experts is None:
        return objectives.contract.total(sums, None)[1]
    logits_LGSE = 2 * jax.random.normal(jax.random.key(seed), (2, 2, 16, experts.num_experts))
    return total(sums, logits_LGSE, experts)


@functools.partial(jax.jit, static_argnames="experts")
def total(sums, logits_LGSE, experts):
    router_stats = jax.vmap(lambda logits_GSE: count(logits_GSE, experts))(logits_LGSE)
    return objectives.contract.total(sums._replace(router_stats=router_stats), experts)[1]


def count(logits_GSE, experts):
    mask_GS = jnp.ones(logits_GSE.shape[:2], bool)
    routed = routing.route(experts.router, logits_GSE, mask_GS, experts.k, key=jax.random.key(0))
    slots = assignment.assign_slots(
        routed.assignment, experts.num_experts, 16 * experts.k // experts.num_experts
    )
    return stats.compute(routed, slots, mask_GS)


def execute(kernel, path, start, **environment):
    """Runs a notebook in a kernel that is in the folder `start`; returns it with outputs."""
    notebook = nbformat.read(path, as_version=4)
    given = {name: str(value) for name, value in environment.items()}
    fresh = FRESH.format(root=str(ROOT), environment=given, start=str(start))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(fresh))
    kernel.nb = notebook
    kernel.reset_execution_trackers()
    for index, cell in enumerate(notebook.cells):
        kernel.execute_cell(cell, index)
    said = "".join(outputs(notebook, "stderr").values())
    assert not re.sub(r"\r[^\n]*\n?", "", said), "it warns (progress bars are none)"
    return notebook


def outputs(notebook, kind):
    """Cell id -> its outputs of one kind (a MIME type, stdout, stderr) as one string."""
    texts = {}
    for cell in notebook.cells:
        found = [
            output.text if output.output_type == "stream" else output.data[kind]
            for output in cell.get("outputs", [])
            if kind in (output.get("name"), *output.get("data", {}))
        ]
        if found:
            texts[cell.id] = "".join(found)
    return texts


@each_notebook
def test_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    clear = "clear it: jupyter nbconvert --clear-output --inplace notebooks/*.ipynb"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs, f"cell {cell.id} has outputs: {clear}"
            assert cell.execution_count is None, f"cell {cell.id} has a number: {clear}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where notebooks keep text and runs, which are short here and opened by several."""
    root = tmp_path_factory.mktemp("lessons")
    return {"MOE_CACHE": root / "cache", "MOE_RUNS": root / "runs", "MOE_STEPS": 8}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_draws_its_figure(kernel, folders, path):
    notebook = execute(kernel, path, path.parent, **folders)
    assert set(outputs(notebook, "image/png")) == {"figure"}


def test_routing_by_hand_runs(kernel):
    assert outputs(execute(kernel, BY_HAND, BY_HAND.parent), "image/png")


def test_how_many_experts_on_an_invented_grid(kernel, tmp_path):
    (tmp_path / "cells.csv").write_text(grid.table(grids.invented()))
    notebook = execute(kernel, EXPERTS, EXPERTS.parent, MOE_GRID=tmp_path)
    assert set(outputs(notebook, "image/png")) == {"fits", "gains", "experts"}
    tables = outputs(notebook, "text/markdown")
    assert "| ludziejewski | 194 |" in tables["laws"]
    assert "| executed FLOPs | " in tables["have"] and tables["less"].count("| text |") == 3


def test_experts_without_a_grid_says_what_to_run(kernel, tmp_path):
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="configs/laws.py:cpu"):
        execute(kernel, EXPERTS, ROOT, MOE_GRID=tmp_path)


def test_import_and_generate_runs_on_the_goldens(kernel):
    goldens = "tests/interop/goldens/olmoe"
    notebook = execute(kernel, IMPORT, IMPORT.parent, MOE_CHECKPOINT=goldens)
    said = outputs(notebook, "stdout")
    assert float(re.search(r"logits: (\S+),", said["compare"])[1]) < 1e-4
    assert said["generate"].count("drawn") == 3 and said["two"].count("greedy") == 2
    assert said["write"] == "model.safetensors is the same\n"
    assert set(outputs(notebook, "image/png")) == {"experts"}


def test_scaling_shows_the_study_from_the_root(kernel, folder):
    notebook = execute(kernel, SCALING, ROOT, MOE_STUDY=folder)
    assert "| e4_random |" in outputs(notebook, "text/markdown")["table"]
    assert set(outputs(notebook, "image/png")) == {"curves", "parts", "load", "statistics"}
    said = outputs(notebook, "stdout")["read-metrics"]
    assert f"e4_random: {folder / 'e4_random' / 'seed0' / 'metrics.jsonl'} is missing" in said
    assert "e4: 4 records to step 4, L = 2 MoE layers, E = 4" in said


def test_scaling_shows_a_study_without_any_log(kernel, folder):
    (folder / "e4" / "seed0" / "metrics.jsonl").unlink()
    notebook = execute(kernel, SCALING, SCALING.parent, MOE_STUDY=folder)
    assert set(outputs(notebook, "image/png")) == {"curves", "parts"}
    assert "no variant has a log of its experts" in outputs(notebook, "stdout")["read-metrics"]


def test_scaling_without_results_says_what_to_run(kernel, tmp_path):
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="Run `make demo`"):
        execute(kernel, SCALING, ROOT, MOE_STUDY=tmp_path / "nowhere")
