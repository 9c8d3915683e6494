"""The table says what the records say."""

import numpy as np
import pytest

from moe.analysis import plots, scaling


def record(variant, seed, losses, **changes):
    fields = {
        "variant": variant,
        "seed": seed,
        "experts": 0,
        "total_parameters": 1_000_000,
        "active_parameters": 1_000_000,
        "ideal_flops": 9e5,
        "executed_flops": 1e6,
        "eval_flops": 3e5,
        "all_flops": 2e6,
        "learning_rate": 0.01,
        "tokens_per_step": 100,
        "step_seconds": 0.1,
        "step_seconds_least": 0.08,
        "steps": 40,
        "curve_steps": [10, 20, 30, 40],
        "curve_nll": losses,
        "test_nll": losses[-1] + 0.1,
        "test_bits_per_byte": 2.0,
        "test_documents_nll": [10.0 * losses[-1], 11.0 * losses[-1]],
        "test_documents_tokens": [10, 10],
        "test_documents": [0, 1],
        "train_routing": {},
        "machine": {
            "devices": ["cpu cpu"] * 2, "processor": "Abacus", "cores": 1, "python": "3.12.1",
            "jax": "0.12.0", "commit": f"c{seed}",
        },
    }  # fmt: skip
    return {**fields, **changes}


def experts(seed, losses, **changes):
    routing = {"dropped": 0.05, "max_load": 1.5}
    return record(
        "e8", seed, losses, experts=8, train_routing=routing, step_seconds=0.15, **changes
    )


DENSE = [5.0, 4.0, 3.5, 3.0]


def test_speed_up_counts_steps_flops_and_seconds():
    records = [
        record("dense", 0, DENSE),
        experts(0, [4.0, 3.0, 2.5, 2.0], executed_flops=1.5e6, all_flops=2.5e6),
    ]
    row = cells(records, "e8")
    assert row["steps"] == "50% (2.00x)"
    assert row["FLOPs"] == "75% (1.33x)"
    assert row["seconds"] == "75% (1.33x)"
    assert row["against dense"] == "+50.00%"
    assert row["all operations"] == "+25.00%"
    assert row["ms/step (least)"] == "150 (80)"
    assert row["dropped"] == "5.0%"
    assert row["max load"] == "1.50"


def test_interval_is_over_seeds_when_there_are_several():
    records = [record("dense", s, DENSE) for s in range(3)]
    records += [experts(s, [5.0, 4.0, 3.0, 2.0 + 0.1 * s]) for s in range(3)]
    # differences -1, -0.9, -0.8: mean -0.9, half 4.302653 * 0.1 / sqrt(3). Documents change by
    # -9 and -9.9 in 10 tokens each; left out, by -0.99 and -0.9: error 0.045, t(0.975, 1) = 12.7.
    row = cells(records, "e8")
    assert row["Δ nats (95%)"] == "-0.9000 ± 0.2484 (3 seeds), ± 0.5718 (documents)"
    # times 2.0 / 2.1
    assert row["Δ bits/byte (95%)"] == "-0.8571 ± 0.2366 (3 seeds), ± 0.5446 (documents)"
    assert cells(records, "e8")["seeds"] == "3"


def test_one_seed_says_that_its_interval_is_over_documents():
    records = [record("dense", s, DENSE) for s in range(3)] + [experts(0, DENSE)]
    assert cells(records, "e8")["Δ nats (95%)"] == "+0.0000 ± 0.0000 (documents)"


def test_only_paired_seeds_are_in_the_table():
    """Seed 7 of e8 has no partner, so its loss is in no mean; e9 has none at all."""
    records = [record("dense", 0, DENSE), experts(0, [5.0, 4.0, 3.0, 2.0])]
    alone = [experts(7, [9.0] * 4), {**experts(7, [9.0] * 4), "variant": "e9"}]
    row = cells(records + alone, "e8")
    assert row["test nats"] == "2.1000" and row["seeds"] == "1"
    assert "e9" not in scaling.table(records + alone, 60)


def test_evaluation_is_compared_too():
    records = [record("dense", 0, DENSE), experts(0, DENSE, eval_flops=4.5e5)]
    assert cells(records, "e8")["evaluating"] == "+50.00%"


def test_the_baseline_against_itself_has_no_interval():
    records = [record("dense", s, DENSE) for s in range(3)]
    assert cells(records, "dense")["steps"] == "100% (1.00x)"


def test_between_lengths_the_share_is_read_off_their_losses():
    """Dense ends at 3.1 after 40 steps; e8 does at 20, half way in logarithms from 10 to 40."""
    lengths = {10: [5.0, 3.5], 40: [5.0, 2.5]}  # test losses 3.6 and 2.6
    records = [record("dense", 0, DENSE, steps=40)]
    records += [experts(0, curve, steps=steps) for steps, curve in lengths.items()]
    row = cells(records, "e8")
    assert row["steps"] == "50% (2.00x)" and row["test nats"] == "2.6000"
    below = [record("dense", 0, [4.0]), experts(0, [3.0], steps=10), experts(0, [2.0])]
    assert cells(below, "e8")["steps"] == "at most 25% (4.00x or more)"  # no run was shorter


def test_bytes_and_memory_are_shown_where_they_were_measured():
    measured = {"step_bytes": 2e9, "temporary_bytes": 2**21}
    dense = record("dense", 0, DENSE, step_bytes=1e9, temporary_bytes=1)
    row = cells([dense, experts(0, DENSE, **measured)], "e8")
    assert row["bytes accessed"] == "+100.00%" and row["temporary MiB"] == "2"


def test_a_noisy_curve_is_smoothed():
    """A single low evaluation is no arrival; the mean of five is."""
    smooth = list(np.linspace(5, 3, 20))
    noisy = list(smooth)
    noisy[4] = 3.0
    steps = list(range(10, 210, 10))
    records = [record("dense", 0, smooth, curve_steps=steps), experts(0, noisy, curve_steps=steps)]
    assert cells(records, "e8")["steps"] == "100% (1.00x)"


def test_a_curve_against_itself_is_no_speed_up():
    """The baseline, too, is timed to where it first reaches its last loss."""
    bumpy = [5.0, 3.0, 2.9, 3.0]
    records = [record("dense", 0, bumpy), experts(0, bumpy)]
    assert cells(records, "e8")["steps"] == "100% (1.00x)"


def test_a_share_has_an_interval_over_seeds():
    records = [record("dense", s, DENSE) for s in range(3)]
    curves = [5.0, 4.0, 3.0, 2.0], [5.0, 3.0, 2.0, 1.0], [3.0, 2.0, 1.0, 0.5]
    records += [experts(s, curve) for s, curve in enumerate(curves)]
    # reached at 75, 50 and 25%: half 4.302653 * 0.25 / sqrt(3)
    assert cells(records, "e8")["steps"] == "50% ± 62% (2.00x)"


def test_a_short_table_has_the_columns_asked_for():
    short = scaling.table([record("dense", 0, DENSE)], 60, scaling.SHORT)
    head = [cell.strip() for cell in short.splitlines()[0].strip("|").split("|")]
    assert tuple(head) == scaling.SHORT


def test_what_it_was_trained_on_is_said():
    """Every machine and commit once."""
    text = scaling.table([record("dense", s, DENSE) for s in (0, 0, 1)], 60)
    said = "cpu cpu, Abacus, cores a run: 1, Python 3.12.1, jax 0.12.0, commit c"
    assert f"Trained on: {said}0, c1." in text


def test_never_reached_is_said():
    records = [record("dense", 0, DENSE), experts(0, [6.0, 5.0, 4.0, 3.1])]
    assert cells(records, "e8")["steps"] == "not reached"


def test_one_seed_of_several_that_never_reaches_is_not_averaged_away():
    records = [record("dense", s, DENSE) for s in range(2)]
    records += [experts(0, [4.0, 3.0, 2.0, 1.0]), experts(1, [6.0, 5.0, 4.0, 3.1])]
    assert cells(records, "e8")["steps"] == "not reached"


def test_nothing_to_compare_with_is_said():
    assert "no finished run of 'dense'" in scaling.table([experts(0, DENSE)], 60)


@pytest.mark.parametrize("timed", [True, False])
def test_figure_draws_every_variant(tmp_path, timed):
    records = [record("dense", 0, DENSE), experts(0, DENSE)]
    if not timed:
        for r in records:
            del r["step_seconds"]
    drawn = plots.scaling_figure(records)
    (legend,) = drawn.legends
    labels = {t.get_text() for t in legend.get_texts()}
    assert labels == {"dense", "e8", "last loss of dense"}
    plots.save(drawn, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def cells(records, variant):
    lines = scaling.table(records, 60).splitlines()
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return next(dict(zip(split[0], row, strict=True)) for row in split[2:] if row[0] == variant)
