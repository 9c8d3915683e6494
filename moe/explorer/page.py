"""One HTML file of a run, or of two: curves, numbers and the token explorer, without network.

Its policy lets no script run but its own, by its hash, so text that got past the escaping would
still be text.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from moe.explorer import charts

SCRIPTS = ("store.js", "text.js", "pane.js", "page.js")


class Run(NamedTuple):
    """What the page tells of a run."""

    name: str
    facts: dict[str, str]  # the table
    records: list[dict]  # of metrics.jsonl


def made(runs: Sequence[Run], explored: dict | None, missing: str = "", takers: str = "") -> str:
    """The page.

    Args:
      runs: one or two.
      explored: "text" and "runs", of `moe.explorer.data`; None if nothing can be explored.
      missing: why not, if so.
      takers: the section of `moe.explorer.takers`, if something is explored.
    """
    script = "\n".join(map(_own, SCRIPTS))
    parts = {
        "title": html.escape(" and ".join(run.name for run in runs)),
        "policy": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "style": _own("page.css"),
        "facts": facts(runs),
        "curves": curves(runs),
        "loads": "".join(loads(run, named=len(runs) > 1) for run in runs),
        "explorer": _own("explorer.html") if explored else f"<p>{html.escape(missing)}</p>",
        "takers": takers,
        "data": embedded(explored),
        "script": script,
    }
    # In one pass: what is put in may itself spell the name of a place.
    return re.sub(r"{{(\w+)}}", lambda place: parts[place[1]], _own("page.html"))


def embedded(content: object) -> str:
    """JSON that no HTML parser takes for more than text: nothing in it can end the element."""
    plain = json.dumps(content, separators=(",", ":"))  # ASCII
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def facts(runs: Sequence[Run]) -> str:
    """A table with a row for each fact and a column for each run."""
    names = dict.fromkeys(name for run in runs for name in run.facts)
    head = "".join(f'<th scope="col">{html.escape(run.name)}</th>' for run in runs)
    rows = []
    for name in names:
        cells = "".join(f"<td>{html.escape(run.facts.get(name, ''))}</td>" for run in runs)
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>')
    return f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def curves(runs: Sequence[Run]) -> str:
    """Loss over steps, of the training batches and of the validation split."""
    lines = []
    for number, run in enumerate(runs):
        for dash, split in enumerate(("validation", "train")):
            some = [r for r in run.records if r["split"] == split and "loss" in r]
            y = [r.get("nll", r["loss"]) for r in some]
            name = f"{split}, {run.name}" if len(runs) > 1 else split
            lines.append(charts.Line(name, _steps(some), y, f"c{number} d{dash}"))
    return charts.chart(lines, "Loss", "nats per target")


def loads(run: Run, named: bool) -> str:
    """A chart for each MoE layer: the share of the choices that each expert got, over steps."""
    some = [r for r in run.records if r["split"] == "train" and "load_LE" in r]
    drawn = []
    for layer in range(len(some[-1]["load_LE"]) if some else 0):
        of_experts = zip(*(r["load_LE"][layer] for r in some), strict=True)
        lines = [
            charts.Line(str(e), _steps(some), load, charts.style(e))
            for e, load in enumerate(of_experts)
        ]
        title = f"Loads of experts, MoE layer {layer}" + (f", {run.name}" if named else "")
        drawn.append(charts.chart(lines, title, "share of the choices", 1 / len(lines)))
    return "".join(drawn)


def _steps(records):
    return [r["step"] for r in records]


def _own(name):
    """A file of the page's own."""
    return (importlib.resources.files(__package__) / name).read_text("utf-8")
