"""What a page is made of: tokens that can be seen, arrays that come back, text that stays text."""

import base64
import gzip
import json
import math
import unicodedata
import xml.etree.ElementTree as tree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.errors import UserError
from moe.explorer import charts, data, page, words
from tests.explorer import cases


@pytest.mark.parametrize(
    ("spelled", "shown"),
    [
        (b" the\n", "·the↵"),
        (b"\t", "⇥"),
        ("\u202e\u200b\xa0·".encode(), "\\u202e\\u200b\\xa0\\xb7"),
        (b"\xe2\x80", "\\xe2\\x80"),
        ("\u0301".encode(), "◌\u0301"),
        (b"</script>&lt;", "</script>&lt;"),  # the page escapes it
        (b"", ""),
    ],
)
def test_tokens_are_shown(spelled, shown):
    assert words.visible(spelled) == shown


@settings(deadline=None, max_examples=30)
@given(st.binary() | st.text().map(lambda text: text.encode()))
def test_everything_can_be_seen(spelled):
    shown = words.visible(spelled)
    assert bool(shown) == bool(spelled)
    assert not [letter for letter in shown if unicodedata.category(letter) in words.UNSEEN]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text()) | st.text("</>&script!-"))
def test_no_json_ends_its_element(content):
    found = page.embedded(content)
    assert json.loads(found) == content
    assert not {*"<>&"} & {*found} and found.isascii()


def unpacked(packed):
    raw = gzip.decompress(base64.b64decode(packed["data"]))
    kind = packed["kind"].removesuffix("Array").lower()
    return np.frombuffer(raw, np.dtype(kind).newbyteorder("<")).reshape(packed["shape"])


@pytest.mark.parametrize(("most", "kind"), [(255, "Uint8"), (256, "Uint16"), (65536, "Uint32")])
def test_arrays_come_back(most, kind):
    array = np.array([[0, 3], [most, 1]])
    assert data.packed(array)["kind"] == f"{kind}Array"
    np.testing.assert_array_equal(unpacked(data.packed(array)), array)
    with pytest.raises(UserError, match="integers from 0"):
        data.packed(-array)


def test_choices_and_text_come_back():
    found = cases.traces(tokens=250)
    large = found._replace(gate_LNK=found.gate_LNK * 2.5)  # as of routers that scale their gates
    for one in (found, large):
        made = cases.explored((one, 8))
        (run,), text = made["runs"], made["text"]
        np.testing.assert_array_equal(np.moveaxis(unpacked(run["expert"]), 1, -1), one.expert_LNK)
        gates = np.moveaxis(unpacked(run["gate"]), 1, -1) * run["scale"]
        np.testing.assert_allclose(gates, one.gate_LNK, atol=0.501 * run["scale"])
        assert run["scale"] == max(1, one.gate_LNK.max()) / 100
        ids = unpacked(text["ids"])
        np.testing.assert_array_equal(ids[unpacked(text["token"])], one.token_N)
        spelled = [text["bytes"][i].encode("latin-1") for i in unpacked(text["token"])[:16]]
        assert spelled == [*cases.WORDS]
        assert unpacked(text["start"]).tolist() == [0, 100, 200]
        assert unpacked(text["domain"]).tolist() == [0, 1, 0]


def test_runs_that_read_other_texts_are_refused():
    one = cases.traces(tokens=50)
    with pytest.raises(UserError, match="not read the same text"):
        cases.explored((one, 8), (one._replace(token_N=one.token_N[::-1]), 8))


def test_a_page_of_50_000_tokens_and_4_layers_has_at_most_2_mb(tmp_path):
    """Choices at random are the longest."""
    cases.written(tmp_path / "page.html", (cases.traces(50_000, layers=4, experts=64), 64))
    assert (tmp_path / "page.html").stat().st_size < 2e6


def test_a_dense_run_gets_the_page_without_the_explorer(tmp_path):
    cases.written(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "no &lt;experts&gt;" in text and 'id="panes"' not in text
    assert text.count("<figure") == 2 and "&lt;1&gt;" in text


def test_a_chart():
    line = charts.Line("<a>", [0, 10, 20, 30], [1.0, math.nan, 3.0, 2.0], "c0")
    drawn = charts.chart([line], "loss & more", "nats", base=0.0)
    svg = tree.fromstring(drawn).find("svg")
    (polyline,) = svg.iter("polyline")
    assert polyline.find("title").text == "<a>" and "from 1 to 2" in svg.get("aria-label")
    x, y = np.array([point.split(",") for point in polyline.get("points").split()], float).T
    assert len(x) == 3 and (np.diff(x) > 0).all() and y[1] < y[2] < y[0]
    (base,) = (one for one in svg.iter("line") if one.get("class") == "base")
    assert float(base.get("y1")) > max(y)
    assert charts.chart([line._replace(y=[math.nan] * 4)], "nothing", "nats") == ""
    assert "<circle" in charts.chart([line._replace(x=[1], y=[2])], "one", "nats")


@pytest.mark.parametrize(
    ("span", "marks"),
    [
        ((0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ((200, 3000), [1000, 2000, 3000]),
        ((2.93, 4.58), [3, 3.5, 4, 4.5]),
    ],
)
def test_marks_are_round(span, marks):
    assert charts.ticks(*span) == marks
