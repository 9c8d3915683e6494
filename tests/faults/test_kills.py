"""Real training processes that are hurt end with the bits of one that was not."""

import shutil

import pytest

from experiments.soak_parts import stops, victims


@pytest.mark.parametrize(("seed", "times"), [(0, 7), (1, 7), (2, 6)])
def test_killed_at_random_moments(runs, seed, times):
    """Among them moments of saves: every fourth step saves, which takes longer than the steps."""
    rows = list(stops.kills(runs, times=times, longest=0.5, seed=seed))
    assert {row.outcome for row in rows} == {"survived"}, rows
    kills, late = (sum(int(row.said.split()[i]) for row in rows) for i in (0, 2))
    assert kills == times and late >= 1


def test_a_full_disk(runs):
    """No file may have more than so many bytes: the save fails, and is told; later it goes on."""
    workdir = runs.fresh("full")
    code = runs.finish(workdir, "--fsize=16000")
    told = victims.last_line(workdir, stops.FULL)
    assert code == 1 and "could not be written" in told and "Make room" in told
    assert runs.judged("full disk", workdir, told).outcome == "refused"


def test_what_compares_runs_sees_a_difference(runs):
    """The judgements of the others can fail."""
    workdir = runs.untouched()
    assert victims.differences(workdir, workdir) == []
    same = runs.fresh("same")
    shutil.copytree(workdir, same)
    lines = (same / "metrics.jsonl").read_text().splitlines()
    (same / "metrics.jsonl").write_text("\n".join(lines[:-1]))
    (line,) = victims.differences(workdir, same)
    assert line == f"{len(lines)} lines of metrics and {len(lines) - 1}"
    (same / "metrics.jsonl").write_text("\n".join(lines))
    shutil.rmtree(same / "checkpoints" / str(runs.steps))  # the one before is the last one now
    found = victims.differences(workdir, same)
    assert "step differs" in found and any("params" in line for line in found)
