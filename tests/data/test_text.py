"""Markup becomes lines, lines become sentences, sentences are kept once."""

from moe.data import text


def test_strip_tags():
    markup = (
        '<p>Creates a <code>Bucket</code>. See <a href="x">this &amp; that</a> .</p>'
        "<ul> <li> <p>One</p> </li><li>Two &lt;id&gt;</li></ul><note></note>"
    )
    lines = [line.strip() for line in text.strip_tags(markup).splitlines() if line.strip()]
    assert lines == ["Creates a Bucket. See this & that.", "One", "Two <id>"]


def test_sentences():
    line = "It  is 1.5 GB, e.g. this. In N. Virginia too! `Code` follows? yes. 2 items."
    assert text.sentences(line) == [
        "It is 1.5 GB, e.g. this.",
        "In N. Virginia too!",
        "`Code` follows? yes.",
        "2 items.",
    ]


def test_unseen_keeps_first_appearances():
    seen: set[str] = set()
    assert text.unseen("One. Two.\n One.  Three.\nTwo.", seen) == "One. Two.\nThree."
    assert text.unseen("Three.\n\nFour. Four. One.", seen) == "Four."
    assert seen == {"One.", "Two.", "Three.", "Four."}
