"""README.md and docs/ hold what they say: links, commands, overrides, code, and every name."""

import dataclasses
import json
import pathlib
import re
import tempfile

import jax
import pytest

import moe
from moe import routing, sharding
from moe.training import loop, metrics
from tests import tiny
from tests.documents import (
    DOCS,
    EXTENDING,
    FENCE,
    LANGUAGES,
    PAGES,
    README,
    TABLES,
    blocks,
    each_page,
    rows,
    section,
    shell_lines,
    spans,
    wrong_commands,
    wrong_links,
)
from tests.training import toys
from tests.training.conftest import serving


@each_page
def test_links_images_and_files_exist(page):
    assert wrong_links(page, page.read_text()) == []


@each_page
def test_commands_can_be_given(page):
    assert wrong_commands(page.read_text()) == []


@each_page
def test_every_block_says_what_it_is(page):
    text = page.read_text()
    assert text.count("\n```") == 2 * len(FENCE.findall(text)), "a fence is not closed"
    assert {language for language, _ in FENCE.findall(text)} <= LANGUAGES


def test_the_commands_are_found():
    """So that the checks above look at something."""
    words = [words for page in PAGES for words in shell_lines(page.read_text())]
    found = {word for line in words for word in line if word.startswith("experiments.")}
    assert len(found) > 8
    assert sum(len([w for w in line if w.startswith("--config.")]) for line in words) > 15


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[a](nowhere.md)", "nowhere.md"),
        ("![a](experiments/results/nothing.png)", "experiments/results/nothing.png"),
        ("# One\n[a](#two)", "#two"),
        ("[a](docs/words.md#no-such-heading)", "docs/words.md#no-such-heading"),
        ("`moe/nothing.py`", "moe/nothing.py"),
    ],
)
def test_a_wrong_link_is_found(text, wrong):
    assert wrong_links(README, text) == [wrong]


def test_a_right_link_is_not():
    text = (
        "# One: two `x_y`!\n# Same\n# Same\n[a](#one-two-x_y) [b](#same-1) [c](docs/words.md#cost)"
    )
    assert wrong_links(README, text) == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("python -m experiments.nothing", "^experiments.nothing$"),
        ("python -m experiments.train --config=configs/nothing.py", "No such file .*nothing.py"),
        ("python -m experiments.train --config=configs/train.py:nobody", "'nobody' is not one of"),
        ("python -m experiments.scaling --config=configs/scaling.py:huge", "'huge' is not one of"),
        ("python -m experiments.train --wordkir=runs/mine", "^--wordkir=runs/mine$"),
        ("python -m experiments.train --config.train.stepps=3", "AttributeError.* instead of"),
        (
            "python -m experiments.train \\\n    --config.train.steps=many",
            "invalid literal for int",
        ),
        ("python -m experiments.train --config.train.steps=0", "UserError: train.steps=0 must be"),
        ("python -m experiments.scaling --config.train.steps=3", "KeyError: .*'train'"),
        ("python -m experiments.plan --config=configs/train.py", "^--config=configs/train.py$"),
        ("ssh pod --command='cd moe && python -m experiments.train --nothing'", "^--nothing$"),
        ("make nothing", "^nothing$"),
    ],
)
def test_a_wrong_command_is_found(line, wrong):
    (found,) = wrong_commands(f"```sh\n{line}\n```")
    assert re.search(wrong, found)


@pytest.mark.parametrize(
    "span", ["make nothing", "experiments.nothing", "--nothing=3", "--config.mesh.nothing"]
)
def test_a_wrong_command_in_a_sentence_is_found(span):
    assert len(wrong_commands(f"Say `{span}`.")) == 1


@pytest.fixture
def sandbox(monkeypatch, tmp_path):
    """Toy data for whatever is asked for, a folder of its own, and every table as it was after."""
    one = sharding.make_mesh(1, 1, devices=jax.devices()[:1])  # compiles in half the time
    monkeypatch.setattr(loop, "mesh_of", lambda run: one)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = [dict(table) for table in TABLES]
    with serving(toys.data()):
        yield tmp_path
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)


def execute(page: pathlib.Path, text: str) -> dict:
    """The names after all Python blocks of a page; errors show the page's own lines."""
    names = {"__name__": "docs"}
    for line, code in blocks(text, "python"):
        exec(compile("\n" * line + code, str(page), "exec"), names)
    return names


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page.read_text(), "python") and page != EXTENDING],
    ids=lambda page: page.stem,
)
def test_python_runs(page, sandbox):
    execute(page, page.read_text())


def test_what_extending_adds_works_alone_and_together(sandbox):
    """Its blocks run; then the loop trains all of it at once."""
    before = [set(table) for table in TABLES]
    names = execute(EXTENDING, EXTENDING.read_text())
    added = [set(table) - old for table, old in zip(TABLES, before, strict=True)]
    assert all(len(new) == 1 for new in added), "a router, a dispatcher, a model, and so on"
    (router,), (dispatcher,), (model,), (objective,), (evaluator,), _ = added
    experts = tiny.moe_config(router=router, k=2, dispatcher=dispatcher)
    sizes = vars(tiny.model(vocab_size=toys.V)) | {"experts": experts}
    run = dataclasses.replace(
        toys.run_config(train={"evaluators": ("loss", f"{evaluator}:3")}),
        architecture=model,
        model=names["BigramConfig"](**sizes),
        objective=names["ObjectiveConfig"](name=objective),
    )
    result = loop.train(run, sandbox / "run")
    assert result["test_bits_per_byte"] > 0
    records = metrics.read(sandbox / "run" / "metrics.jsonl")
    assert {r["step"] for r in records if "expert_norm_LE" in r} == {3, 6}
    assert all(0 <= r["accuracy"] <= 1 for r in records if r["split"] == "train")
    assert json.loads((sandbox / "run" / "config.json").read_text())["architecture"] == model


def test_every_promise_has_its_test():
    lines = rows((DOCS / "promises.md").read_text())
    assert len(lines) > 15
    for promise, tests in lines:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
        assert named, promise
        for path, test in named:
            assert f"def {test}(" in (DOCS.parent / path).read_text(), promise


def test_code_that_fails_fails_where_it_stands(sandbox):
    with pytest.raises(AssertionError) as caught:
        execute(README, "Text.\n\n```python\none = 1\n```\n\n```python\nassert one == 2\n```\n")
    assert caught.traceback[-1].lineno + 1 == 8


def test_the_readme_takes_two_minutes():
    assert len(README.read_text().split()) <= 700


@pytest.mark.parametrize("table", ["ROUTERS", "DISPATCHERS", "MODELS", "OBJECTIVES", "EVALUATORS"])
def test_every_entry_of_a_table_is_named(table):
    named = {span for page in PAGES for span in spans(page.read_text())}
    assert set(getattr(moe, table)) <= named


def test_the_table_of_routers_is_that_of_the_code():
    told = {}
    for name, _, kind, causal, options, _ in rows(
        (DOCS / "routers.md").read_text().split("\n## ")[0]
    ):
        told[name.strip("`")] = (kind.strip("`"), causal, set(re.findall(r"`(\w+)`", options)))
    assert told == {
        name: (
            router.kind.__name__,
            router.causal,
            {f.name for f in dataclasses.fields(router.options)},
        )
        for name, router in routing.ROUTERS.items()
    }


def test_every_public_name_is_shown():
    text = "\n".join(page.read_text() for page in PAGES)
    missing = [
        name for name in moe.PUBLIC if not re.search(rf"\bmoe\.{name}\b(?!\.)|`{name}`", text)
    ]
    assert missing == []


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\(docs/(\w+\.md)\)", README.read_text()))
    assert linked == {page.name for page in PAGES if page != README}


def test_the_letters_are_the_same_everywhere():
    cells = rows(section((DOCS / "words.md").read_text(), "Letters"))
    words = {letter for row in cells for letter in row[::2]} - {""}
    readme = section(README.read_text(), "Letters")
    legend = moe.__doc__.split("The letters")[1]
    assert set(re.findall(r"\b[A-Z]\b", readme)) == words
    assert set(re.findall(r"(?:^|  )([A-Z])  \w", legend, re.MULTILINE)) <= words
