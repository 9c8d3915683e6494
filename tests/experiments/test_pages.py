"""Programs start themselves again with large pages, and nothing else does."""

import os
import pathlib
import subprocess
import sys

import pytest

from experiments import pages

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("python -m experiments.train --config=a", True),
        ("python -X utf8 -m experiments.train", True),
        ("python -m pytest tests/experiments", False),
        ("python -c import experiments", False),
        ("python train.py -m", False),
        ("python", False),
    ],
)
def test_which_commands_are_programs(command, wanted):
    assert pages.is_wanted(command.split(), {}) == wanted
    assert not pages.is_wanted(command.split(), {"GLIBC_TUNABLES": ""})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these pages")
@pytest.mark.parametrize(("given", "found"), [("", "glibc.malloc.hugetlb=1"), ("x", "x")])
def test_a_program_finds_itself_with_them(given, found, tmp_path):
    """Unless its user has said something else."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    for file in (ROOT / "experiments").glob("*.py"):
        (folder / file.name).symlink_to(file)
    (folder / "show.py").write_text("import os; print(os.environ['GLIBC_TUNABLES'])")
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    environment |= {"GLIBC_TUNABLES": given} if given else {}
    command = [sys.executable, "-m", "experiments.show"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == found
