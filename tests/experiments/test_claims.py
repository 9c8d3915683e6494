"""CLAIMS.md is what the code makes of the recorded results, and verdicts are those of intervals."""

import math

import numpy as np
import pytest

from experiments import claims as written
from experiments.claimed import routers
from moe.analysis import claims, paired
from moe.analysis.claims import ABOVE, BELOW, Finding, Region, Row
from tests import documents


@pytest.fixture(scope="module")
def rows():
    return written.rows()


def test_the_file_is_what_the_code_makes(rows):
    assert written.PATH.read_text() == written.text(rows), "run python -m experiments.claims"


def test_every_claim_is_whole(rows):
    assert len(rows) >= 60
    assert len({(row.claim, row.source, str(row.ours)) for row in rows}) == len(rows)
    assert all(cell.strip() for row in rows for cell in (row.claim, row.source, row.why))
    text = "\n".join(f"`{line}`" for line in {row.command for row in rows})
    assert documents.wrong_commands(text) == []
    assert documents.wrong_links(written.PATH, written.PATH.read_text()) == []


def test_the_readme_has_the_headline(rows):
    (headline,) = rows[0].ours.values()
    number = headline.text.removesuffix(" nats")
    (line,) = [
        one for one in documents.README.read_text().splitlines() if "32 experts, top-2" in one
    ]
    assert f"| {number} |" in line and claims.agrees(rows[0]) == "yes"
    assert "experiments/CLAIMS.md" in documents.README.read_text()


def test_every_study_of_routers_has_a_reason_for_each_claim():
    said = {(one.better, one.than) for study in routers.STUDIES for one in study.said}
    assert said == set(routers.WHY)


@pytest.mark.parametrize(
    ("low", "high", "region", "verdict"),
    [
        (-0.3, -0.1, BELOW, "yes"),
        (-0.3, -0.1, ABOVE, "no"),
        (-0.1, 0.1, BELOW, "open"),
        (-0.1, 0.0, BELOW, "open"),
        (0.91, 0.99, Region(low=0.9), "yes"),
        (0.8, 0.89, Region(low=0.9), "no"),
        (0.4, 0.5, Region(0.3, 0.6), "yes"),
        (0.2, 0.7, Region(0.3, 0.6), "open"),
        (0.5, 0.7, Region(0.3, 0.6), "open"),
        (0.7, 0.8, Region(0.3, 0.6), "no"),
        (1.5, math.inf, Region(low=2.0), "open"),
        (2.0, 2.0, Region(low=1.0), "yes"),
        (math.nan, math.nan, BELOW, "open"),
    ],
)
def test_a_verdict_is_that_of_the_whole_interval(low, high, region, verdict):
    assert claims.verdict(low, high, region) == verdict


def test_findings_show_their_interval_and_have_its_ends():
    """Three seeds: half is t(0.975, 2) = 4.3027 times 0.01 / sqrt(3)."""
    found = claims.difference(paired.interval([-0.11, -0.12, -0.13]))
    assert found.text == "-0.120 ± 0.025 nats"
    assert found[1:] == pytest.approx((-0.12 - 0.0248, -0.12 + 0.0248), abs=1e-4)
    assert claims.points(paired.interval([0.01, 0.02, 0.03])).text == "+2.0 ± 2.5 points"
    twice = claims.times(list(np.log([1.0, 2.0, 4.0])))
    assert twice.text == "2.00 (0.36 to 11.19) times"
    assert twice.low == pytest.approx(0.357, abs=1e-3)
    one = claims.difference(paired.interval([-0.1]))
    assert one.text == "-0.100 (one seed) nats" and claims.verdict(*one[1:], BELOW) == "open"
    assert claims.alone("58 ms", 58.0) == ("58 ms, no interval", 58.0, 58.0)


def test_the_table():
    some = {"few": Finding("-1", -1, -1), "many": Finding("0 ± 1", -1, 1)}
    parts = Row("more is less", "somebody", BELOW, some, "who knows", "make demo")
    whole = parts._replace(ours=Finding("+1", 1, 1), holds=Region(0, 2))
    text = claims.table([parts, whole])
    assert text.startswith(
        "2 claims: 1 agree, 0 do not, 0 are open, and 1 differ from case to case"
    )
    assert (
        "| more is less [< 0] | somebody | few: -1; many: 0 ± 1 | yes (few); open (many) |"
        " who knows | `make demo` |"
    ) in text
    assert "| more is less [0 to 2] | somebody | +1 | yes |" in text
