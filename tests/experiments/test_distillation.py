"""Two rounds of a study: teachers, then students of the same seed; and the table."""

import pytest

from configs import distillation as configs
from experiments import distillation, records, scaling, study
from moe.analysis import distillation as tables
from moe.objectives import distillation as objective
from tests.training import toys


@pytest.fixture
def config():
    found = configs.cpu()
    found.seeds = 1
    found.jobs = 1
    found.base.train.update(
        steps=2, batch_size=8, seq_len=8, eval_every=2, eval_batches=1, test_batches=1, log_every=1
    )
    found.base.optimizer.warmup_steps = 1
    sizes = {"vocab_size": toys.V, "d_model": 8, "num_heads": 1, "d_head": 8, "d_ff": 16}
    found.base.model.update(num_layers=1, **sizes)
    found.base.data.vocab_size = toys.V
    found.experts.group_size = 8
    found.match = "ideal"
    del found.variants["e32_top2"]
    found.students = {name: found.students[name] for name in ("soft", "switch")}
    return found


def test_the_students_of_a_study(config, tmp_path):
    """Each is dense, learns from a teacher of its own seed, and starts as it is said."""
    runs = scaling.variants(config)
    found = distillation.students(config, runs, tmp_path)
    assert list(found) == ["e8_top2_soft", "e8_top2_switch"]
    for run in found.values():
        assert run.model == runs["dense"].model
        assert run.objective.options.teacher == runs["e8_top2"].model
        seeded = records.seeded(run, 7)
        assert seeded.init_from.workdir == str(tmp_path / "e8_top2" / "seed7")
    rules = [run.init_from.rules for run in found.values()]
    assert rules == [objective.TAUGHT, objective.START]
    assert records.seeded(runs["dense"], 7).init_from.workdir == ""


def test_what_starts_from_dense_is_the_control_of_what_starts_from_experts(config, tmp_path):
    config.students = {"copied": {"share": 0.0, "copied": True}} | config.students.to_dict()
    found = distillation.students(config, scaling.variants(config), tmp_path)
    assert [name for name in found if name.startswith("dense")] == ["dense_copied"]
    assert found["dense_copied"].init_from.rules == found["e8_top2_copied"].init_from.rules


def test_teachers_come_before_students(config, tmp_path, monkeypatch, capsys):
    rounds = []

    def run(runs, root, seeds, jobs, timed):
        del root, jobs, timed
        rounds.append(list(runs))
        return [record(name, seed, 4.0, 10) for name in runs for seed in seeds]

    monkeypatch.setattr(study, "run", run)
    distillation.main(config, str(tmp_path))
    teachers = ["dense", "e8_top2"]
    assert rounds == [teachers, [*teachers, "e8_top2_soft", "e8_top2_switch"]]
    assert "| e8_top2_switch | " in capsys.readouterr().out


def record(variant, seed, nll, size):
    return {"variant": variant, "seed": seed, "steps": 9, "test_nll": nll, "total_parameters": size}


def test_the_table():
    losses = {"dense": 4.0, "e8": 3.8, "e8_soft": 3.9, "e8_worse": 4.1}
    sizes = {"dense": 10, "e8": 100, "e8_soft": 10, "e8_worse": 10}
    found = [
        record(name, seed, loss + seed / 10, sizes[name])
        for name, loss in losses.items()
        for seed in range(2)
    ]
    rows = tables.table(found, "dense").splitlines()[2:6]
    assert rows[0] == "| dense | 10 |  | 4.0500 |  |  |  |"
    assert rows[2] == "| e8_soft | 10 | 90% | 3.9500 | -0.1000 ± 0.0000 | 0.50 ± 0.00 |  |"
    assert rows[3].endswith("| -0.50 ± 0.00 |  |")
    assert tables.teacher_of("e8_soft_more", {"e8": 0, "e8_soft": 0}) == "e8_soft"
    bad = [one | {"test_nll": 9.0} if one["variant"] == "e8" else one for one in found]
    assert tables.table(bad, "dense").count("no gain") == 2


def test_students_stand_beside_what_starts_from_dense():
    """Of seeds that both have; the control itself has nothing beside it."""
    losses = {"dense": 4.0, "e8": 3.8, "dense_copied": 3.7, "e8_copied": 3.75}
    found = [
        record(name, seed, loss + (seed if name == "e8_copied" else 0) / 100, 10)
        for name, loss in losses.items()
        for seed in range(2)
    ]
    rows = {row.split(" | ")[0]: row for row in tables.table(found, "dense").splitlines()[2:6]}
    assert rows["| e8_copied"].endswith("| +0.0550 ± 0.0635 |")  # 12.706 * 0.00707 / sqrt(2)
    assert rows["| dense_copied"].endswith("| no gain |  |")
    (axis,) = tables.drawn(found, "dense").axes
    assert axis.get_xlabel() == "students of e8"
    heights = [line.get_ydata()[0] for line in axis.lines if line.get_label() in losses]
    assert heights == pytest.approx([-0.2, -0.3])  # the teacher, the control
