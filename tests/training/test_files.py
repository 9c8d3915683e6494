"""A workdir belongs to one config and one text; files are whole or absent."""

import dataclasses
import pathlib
import re
import subprocess
import sys

import pytest

from moe import sealed
from moe.training import files

ROOT = pathlib.Path(__file__).parents[2]


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    sealed.write(path, "old")
    monkeypatch.setattr(files.pathlib.Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        sealed.write(path, "new")
    assert path.read_text() == "old"


def crash(*args):
    raise KeyboardInterrupt


@dataclasses.dataclass(frozen=True)
class Inner:
    a: int = 1
    names: tuple = ("x", "y")


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner | None = Inner()
    rate: float = 0.1


def test_a_workdir_remembers_its_config(tmp_path):
    workdir = tmp_path / "runs" / "one"
    files.check_or_write(workdir / "config.json", dataclasses.asdict(Outer()), "config")
    written = (workdir / "config.json").read_text()
    want = {"inner": {"a": 1, "names": ["x", "y"]}, "rate": 0.1}
    assert sealed.read_json(workdir / "config.json") == want
    files.check_or_write(workdir / "config.json", dataclasses.asdict(Outer()), "config")
    assert (workdir / "config.json").read_text() == written


def test_a_workdir_of_another_config_is_refused(tmp_path):
    files.check_or_write(tmp_path / "config.json", dataclasses.asdict(Outer()), "config")
    with pytest.raises(ValueError) as error:
        files.check_or_write(
            tmp_path / "config.json", dataclasses.asdict(Outer(Inner(a=2), rate=0.2)), "config"
        )
    assert str(error.value).splitlines() == [
        f"{tmp_path} belongs to another config:",
        "  inner.a: it has 1, you gave 2",
        "  rate: it has 0.1, you gave 0.2",
        "Name another workdir, or delete this one to start over.",
    ]


def test_difference():
    difference = files.difference
    assert difference({"a": {"b": 1}}, {"a": {"b": 1}}) == []
    assert difference({"a": None}, {"a": {"b": 1}}) == ["a: it has None, you gave {'b': 1}"]
    assert difference({"a": 1}, {"b": 2}) == [
        "a: it has 1, you gave '(absent)'",
        "b: it has '(absent)', you gave 2",
    ]
    assert difference({"a": [1, 2]}, {"a": [1, 3]}) == ["a: it has [1, 2], you gave [1, 3]"]


def test_a_machine_has_a_name_and_versions():
    machine = files.machine()
    assert machine["processor"] and machine["cores"] >= 1
    assert machine["devices"][0].startswith("cpu")
    assert re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?|unknown", machine["commit"])


HOLD = """
import pathlib, sys, time
from moe.training import files
with files.alone(pathlib.Path(sys.argv[1]), "training in"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_its_process(tmp_path):
    path = tmp_path / "run" / "train.lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout.readline() == "held\n"
        message = f"another process is training in {path.parent}: wait"
        with pytest.raises(ValueError, match=message), files.alone(path, "training in"):
            pass
        other.kill()
    with files.alone(path, "training in"), files.lock(path) as free:
        assert not free
    with files.lock(path) as free:
        assert free


def test_only_the_first_of_several_processes_locks(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    with files.alone(tmp_path / "lock", "training in"):
        assert list(tmp_path.iterdir()) == []
