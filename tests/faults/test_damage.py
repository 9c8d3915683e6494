"""Checkpoints are damaged in every way; none is believed, and what is sound goes on."""

import json
import shutil

import pytest

from moe import sealed
from moe.training import checkpoint, checksums, loop, metrics, runs
from tests import tiny
from tests.faults.damages import cut, delete, empty, flip
from tests.training import toys
from tests.training.toys import EVERY, STEPS

pytestmark = pytest.mark.usefixtures("programs")
DAMAGES = (flip, cut, empty, delete)
each_damage = pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)


def folder(workdir, step):
    return workdir / "checkpoints" / str(step)


def contents(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@each_damage
def test_damage_to_any_file_of_a_checkpoint_is_seen_and_named(workdir, damage):
    names = [path.relative_to(workdir) for path in contents(folder(workdir, STEPS))]
    assert len(names) > 5
    for name in names:
        path = workdir / name
        before = path.read_bytes()
        if not before and damage is not delete:
            continue
        damage(path)
        assert str(path) in checksums.damage(workdir, STEPS)
        path.write_bytes(before)
    assert checksums.damage(workdir, STEPS) == ""


def test_a_run_goes_on_from_the_last_sound_checkpoint(whole, workdir, capsys):
    """To the very same end; what was damaged lies aside, and its step is saved again."""
    flip(max(contents(folder(workdir, STEPS)), key=lambda path: path.stat().st_size))
    run = toys.run_config()
    result = loop.train(run, workdir)
    assert f"the checkpoint of step {STEPS} is left out: " in capsys.readouterr().err
    assert result["test_nll"] == whole.result["test_nll"]
    tiny.assert_equal(toys.Run(workdir, result).state(run), whole.state(run))
    assert [path.name for path in (workdir / "damaged").iterdir()] == [f"{STEPS}_0"]
    assert checksums.damage(workdir, STEPS) == ""
    records = metrics.read(workdir / "metrics.jsonl")
    assert [r["step"] for r in records] == [r["step"] for r in whole.records]


def test_a_run_without_a_sound_checkpoint_does_not_start_over(workdir):
    for step in (EVERY, STEPS):
        delete(contents(folder(workdir, step))[0])
    for use in (lambda: loop.train(toys.run_config(), workdir), lambda: runs.load_run(workdir)):
        with pytest.raises(ValueError, match="no checkpoint in .* is what was saved, or none"):
            use()
    assert not (workdir / "result.json").exists() and not (workdir / "damaged").exists()


def test_a_damaged_older_checkpoint_is_moved_away_too(workdir):
    """So that two sound ones are kept from then on, and nothing that writes meets it."""
    for path in contents(folder(workdir, EVERY)):
        empty(path)
    loop.train(toys.run_config(), workdir)
    assert [path.name for path in (workdir / "damaged").iterdir()] == [f"{EVERY}_0"]


def test_checksums_of_a_damaged_checkpoint_do_not_condemn_the_next(workdir, whole):
    """Not even if its run is killed before it has checksums of its own."""
    flip(contents(folder(workdir, STEPS))[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checksums, "write", lambda *args: None)
        loop.train(toys.run_config(), workdir)
    assert "is missing, so it was not finished" in checksums.damage(workdir, STEPS)
    (workdir / "result.json").unlink()
    assert loop.train(toys.run_config(), workdir)["test_nll"] == whole.result["test_nll"]
    assert len(list((workdir / "damaged").iterdir())) == 2


def test_a_reader_goes_back_to_the_sound_one_and_moves_nothing(workdir, capsys):
    flip(contents(folder(workdir, STEPS))[0])
    assert runs.load_run(workdir).state.step == EVERY
    assert folder(workdir, STEPS).exists()
    assert "is left out" in capsys.readouterr().err


def test_an_earlier_one_is_read_if_it_is_asked_for(workdir):
    assert runs.load_run(workdir, EVERY).state.step == EVERY
    with pytest.raises(ValueError, match="has checkpoints of steps .6, 3., none of step 4"):
        runs.load_run(workdir, 4)
    flip(contents(folder(workdir, EVERY))[0])
    with pytest.raises(ValueError, match=f"the checkpoint of step {EVERY} in "):
        runs.load_run(workdir, EVERY)


def test_what_vanishes_while_a_reader_looks_is_not_damaged(workdir, capsys, monkeypatch):
    """Its run has replaced both: the newer ones are looked at, and nothing is said."""
    looked = checksums.damage

    def slow(path, step):
        if step == STEPS:
            for old in (EVERY, STEPS):
                folder(workdir, old).rename(folder(workdir, old + STEPS))
                checksums_of = workdir / "checksums"
                (checksums_of / f"{old}.json").rename(checksums_of / f"{old + STEPS}.json")
        return looked(path, step) if step > STEPS else f"{path} is missing"

    monkeypatch.setattr(checksums, "damage", slow)
    assert checkpoint.Checkpoints(workdir).latest == 2 * STEPS
    assert capsys.readouterr().err == ""


def test_a_folder_with_the_step_of_another_is_refused(workdir):
    """If its checksums have been lost, too: the state knows its step."""
    shutil.rmtree(folder(workdir, EVERY))
    shutil.rmtree(workdir / "checksums")
    folder(workdir, STEPS).rename(folder(workdir, STEPS + 2))
    with pytest.raises(ValueError, match=f"checkpoints/8 holds the state of step {STEPS}"):
        runs.load_run(workdir)


def test_a_checkpoint_without_checksums_is_believed_where_there_are_none(whole, workdir):
    """A run from before there were any, or killed before its first; it is sealed then."""
    shutil.rmtree(workdir / "checksums")
    assert loop.train(toys.run_config(), workdir)["test_nll"] == whole.result["test_nll"]
    assert [path.stem for path in (workdir / "checksums").iterdir()] == [str(STEPS)]
    assert not (workdir / "damaged").exists()


def test_checkpoints_that_are_all_gone_do_not_start_a_run_over(workdir):
    """As on a disk that is not mounted."""
    metrics_before = (workdir / "metrics.jsonl").read_text()
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(ValueError, match="or none is left: bring one back"):
        loop.train(toys.run_config(), workdir)
    assert (workdir / "metrics.jsonl").read_text() == metrics_before


@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_checkpoints_of_nobody_are_refused(workdir, name):
    (workdir / name).unlink()
    with pytest.raises(ValueError, match=f"has checkpoints or a result but no {name}"):
        loop.train(toys.run_config(train={"seed": 5}), workdir)
    assert not (workdir / name).exists()


@pytest.mark.parametrize("tail", [b"\xff\xfe{}\n7\n", b'{"stap": 7}\n{}\n'])
def test_what_stands_behind_the_checkpoint_is_written_again(whole, workdir, tail):
    """Whatever a crash made of it."""
    with (workdir / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    loop.train(toys.run_config(), workdir)
    assert len(metrics.read(workdir / "metrics.jsonl")) == len(whole.records)


def test_names_of_damaged_ones_that_are_taken(workdir):
    flip(contents(folder(workdir, STEPS))[0])
    (workdir / "damaged" / f"{STEPS}_0").mkdir(parents=True)
    loop.train(toys.run_config(), workdir)
    assert len(list((workdir / "damaged").iterdir())) == 2


def test_what_older_code_wrote_is_believed(workdir):
    path = workdir / "config.json"
    path.write_text(json.dumps(sealed.read_json(path)))
    assert runs.read_config(workdir).model == toys.run_config().model


def test_a_checkpoint_that_was_not_sealed_any_more_is_left_out(workdir, capsys):
    """After a loss of power its files may be empty."""
    (workdir / "checksums" / f"{STEPS}.json").unlink()
    assert checkpoint.Checkpoints(workdir).latest == EVERY
    assert f"{STEPS}.json is missing, so it was not finished" in capsys.readouterr().err


def run_until(workdir, step):
    """The run goes on and is killed at a step, before it saves again."""

    def killed(n):
        if n == step:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        loop.train(toys.run_config(), workdir, stop=killed)


def test_a_run_whose_seals_are_gone_survives_two_crashes(whole, workdir):
    """What is believed is sealed as it was at its step, without what the run then drops."""
    shutil.rmtree(workdir / "checksums")
    shutil.rmtree(folder(workdir, STEPS))
    for step in (EVERY + 1, EVERY + 2):
        run_until(workdir, step)
    loop.train(toys.run_config(), workdir)
    assert len(metrics.read(workdir / "metrics.jsonl")) == len(whole.records)


def test_a_first_checkpoint_that_cannot_be_read_is_not_sealed(workdir):
    """It had no seal, so it was believed until it was read; the error names it."""
    shutil.rmtree(workdir / "checksums")
    shutil.rmtree(folder(workdir, STEPS))
    (folder(workdir, EVERY) / "_CHECKPOINT_METADATA").write_text("{}")
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"checkpoints/{EVERY} cannot be read"):
            loop.train(toys.run_config(), workdir)
    assert not list((workdir / "checksums").glob("*"))
