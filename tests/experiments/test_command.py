"""A wrong command line is one line that says what to do."""

import contextlib
import pathlib
import re
import subprocess
import sys

import pytest

from experiments import command
from moe.errors import UserError
from tests.experiments import programs

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """Programs whose imports are done."""
    with contextlib.closing(programs.Programs(tmp_path_factory.mktemp("programs"))) as found:
        yield found


BROKEN = {
    "name.py": ("steps = 3\nget_config = stepz\n", "name.py, line 2: NameError: name 'stepz' is"),
    "grammar.py": ("def get_config(:\n", "grammar.py, line 1: SyntaxError: invalid syntax"),
    "value.py": ("def get_config():\n  raise ValueError('model.k is 3')\n", "model.k is 3"),
    "key.py": ("def get_config():\n  return {}['x']\n", "key.py, line 2: KeyError: 'x'"),
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.step=1"], 'an override names a field .*"steps" instead of "step"'),
        (["train.steps=1"], "unexpected arguments .*: overrides look like --config.a.b=c"),
        (["--config.train.steps=-1"], "train.steps=-1 must be above 0 and at most .*: raise it"),
        (["--config.train.steps=many"], ".*config.train.steps=many.*"),
        (["--config.model.experts.k=17"], "experts.k=17 exceeds num_experts=16"),
        (["--config.mesh.data=3"], "mesh data=3, expert=1, model=1 does not fit 1 devices"),
        (["--config.data.source=('nonesuch',)"], "Unknown source 'nonesuch'. The packaged domains"),
        (["--config=configs/trian.py"], "--config=configs/trian.py: there is no file configs/tri"),
        (["--config=configs/train.py:topk"], "the router after the colon='topk' is not one of"),
        (["--steps=3"], "Unknown command line flag 'steps'"),
        (["--distributed"], "--distributed: coordinator_address should be .* give --coordinator"),
        (["--num_processes=2"], "--coordinator, --num_processes, --process_id need --distributed"),
        (["--workdir=README.md"], "--workdir=README.md is a file: name a folder"),
        (["--workdir="], "--workdir= is empty: name a folder, or leave it out for runs/train"),
        *((["--config={tmp}/" + name], f".*{said}") for name, (_, said) in BROKEN.items()),
    ],
    ids=str,
)
def test_a_wrong_argument(arguments, message, tmp_path, warm):
    for name, (text, _) in BROKEN.items():
        (tmp_path / name).write_text(text)
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    done = warm.run("train", f"--workdir={tmp_path / 'run'}", *arguments, MOE_CACHE=str(tmp_path))
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert re.match(message, line), line


def test_a_traceback_on_demand(tmp_path, warm):
    done = warm.run("train", f"--workdir={tmp_path}", "--config.train.steps=-1", "--debug")
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert "train.steps=-1 must be above 0" in done.stderr.splitlines()[-1]


def test_a_mistake_of_the_code_keeps_its_traceback():
    for mistake in (ZeroDivisionError, ValueError):
        with pytest.raises(mistake), command._in_one_line():
            raise mistake
    with pytest.raises(SystemExit, match="^a wrong value$"), command._in_one_line():
        raise UserError("a wrong value")


def test_from_any_folder(tmp_path, warm):
    """A relative config is looked for here first, then in the repository."""
    steps = "--config.train.steps=-1"
    for arguments in (["--config=configs/train.py:gshard"], ["--config", "configs/train.py"], []):
        done = warm.run("train", *arguments, steps, cwd=tmp_path)
        assert done.stderr.startswith("train.steps=-1 must be above 0"), done.stderr
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.py").write_text("raise ValueError('the nearer one')")
    assert warm.run("train", cwd=tmp_path).stderr == "the nearer one\n"


def test_a_workdir_at_home(tmp_path, monkeypatch, warm):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command._folder("~/x", "a") == str(tmp_path / "x") and command._folder("", "") == ""
    done = warm.run("generate", "--workdir=~/x", cwd=tmp_path, HOME=str(tmp_path))
    assert done.stderr == f"{tmp_path}/x has no config.json: it is no run's, no checkpoint's\n"


def test_help_tells_of_the_config():
    """Which a module of its own defines for all experiments."""
    call = [sys.executable, "-m", "experiments.bench_dispatch", "--help"]
    done = subprocess.run(call, check=False, cwd=ROOT, capture_output=True, text=True)
    assert "--config: The cells." in done.stdout and "--[no]baselines" in done.stdout
