"""Small files of a run are damaged: what is wrong is named, and nothing of it is believed."""

import contextlib
import random
import re
import shutil

import pytest

from moe import sealed
from moe.training import loop, metrics
from tests.faults.damages import cut, delete, empty, flip_digit
from tests.training import toys
from tests.training.toys import EVERY, STEPS

pytestmark = pytest.mark.usefixtures("programs")


@pytest.mark.parametrize("damage", (cut, empty, delete, flip_digit))
def test_metrics_that_are_not_what_they_were_stop_the_run(workdir, damage):
    path = workdir / "metrics.jsonl"
    damage(path)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} does not begin with the [\d,]+"):
        loop.train(toys.run_config(), workdir)
    shutil.rmtree(workdir / "checksums")
    loop.train(toys.run_config(), workdir)


@pytest.mark.parametrize("name", ["config.json", "data.json", "result.json"])
def test_a_flipped_bit_in_a_small_file_is_seen_or_changes_nothing(whole, tmp_path, name):
    before = (whole.workdir / name).read_bytes()
    want = sealed.read_json(whole.workdir / name)
    path = tmp_path / name
    rng = random.Random(0)
    seen = 0
    for _ in range(200):
        content = bytearray(before)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            assert sealed.read_json(path) == want
        except ValueError as error:
            assert str(error).startswith(f"{path} is damaged (")
            seen += 1
    assert seen > 100


@pytest.mark.parametrize("text", ["{}", "", "[]", '{"steps": 6}', '"no"'])
def test_a_result_without_its_numbers_is_none(workdir, text):
    (workdir / "result.json").write_text(text)
    with pytest.raises(ValueError, match=r"result.json is damaged \(.*bring it back from a copy"):
        loop.train(toys.run_config(), workdir)


def test_metrics_under_a_seal_keep_their_bytes(workdir):
    """Also those that an older version wrote, in its own names."""
    path = workdir / "metrics.jsonl"
    old = path.read_text().replace('"unrouted"', '"missed"').replace(": ", ":")
    assert old != path.read_text()
    path.write_text(old)
    with contextlib.closing(metrics.Writer(path, STEPS)):
        assert path.read_text() == old
    with contextlib.closing(metrics.Writer(path, EVERY)):
        assert old.startswith(path.read_text()) and len(path.read_text()) < len(old)


def test_metrics_that_are_all_thrown_away_are_not_read(tmp_path):
    """After a loss of power they may be zeros."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\0" * 40 + b"\n" + b"{}\n")
    metrics.Writer(path, 0).close()
    assert path.read_bytes() == b""


def test_a_result_of_nobody_is_refused(whole, tmp_path):
    """It is not another config's."""
    shutil.copy(whole.workdir / "result.json", tmp_path)
    with pytest.raises(ValueError, match=r"a result but no config.json"):
        loop.train(toys.run_config(train={"seed": 5}), tmp_path)
    assert not (tmp_path / "config.json").exists()
