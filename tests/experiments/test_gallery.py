"""The gallery, its page and the recorded figures are the same."""

import re

import pytest

from experiments import gallery
from experiments.gallery import DRAWINGS, RESULTS
from tests.documents import DOCS

SMALL = ("precision_cpu/routers.png", "expert_parallel_tpu/scaling.png")


def test_every_recorded_figure_is_in_the_table_and_on_the_page():
    text = (DOCS / "gallery.md").read_text()
    shown = re.findall(r"^!\[.+\]\(\.\./experiments/results/(.+)\)$\n\n^\w.+$", text, re.MULTILINE)
    drawn = [*(drawing.figure for drawing in DRAWINGS), *gallery.OF_MODELS]
    recorded = [path.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("*.png")]
    assert sorted(shown) == sorted(drawn) == sorted(recorded)


@pytest.mark.parametrize("drawing", [d for d in DRAWINGS if d.figure in SMALL])
def test_a_figure_is_drawn_as_large_as_the_recorded_one(drawing, tmp_path):
    made = gallery.draw(drawing, tmp_path).read_bytes()
    recorded = (RESULTS / drawing.figure).read_bytes()
    head = slice(0, 24)  # the signature, width and height
    assert made[head] == recorded[head] and len(made) > 10_000
