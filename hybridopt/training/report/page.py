"""report.html: one file that shows a run, with everything it needs in it."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...core.errors import HybridOptError
from .curves import curves, others
from .markup import Html, element, join
from .memory_chart import memory_chart
from .model_map import model_map
from .reading import Facts, facts_in
from .tables import memory_table, settings, tiles, time_table

__all__ = ["page", "write"]

NAME = "report.html"
HERE = Path(__file__).parent
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # nothing is fetched


def write(folder: Path) -> Path:
    """Write report.html from what a folder has of run.yaml, plan.json and log.jsonl, and return its path.

    It replaces an older one as a whole. A run that has not finished, or has left little, makes a shorter page.

    Raises:
        HybridOptError: one of the files cannot be read, or the page cannot be written.
    """
    text = page(facts_in(folder))
    path, beside = folder / NAME, folder / f".{NAME}.new"
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise HybridOptError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def page(facts: Facts) -> str:
    """Return a run as one HTML page."""
    title = f"{_name(facts)}: training report"
    meta = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
    ]
    style, script = (Html((HERE / file).read_text(encoding="utf-8")) for file in ("page.css", "page.js"))
    head = element("head", *meta, element("title", title), element("style", style))
    body = element("body", _header(facts), element("main", *_main(facts)), element("script", script))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _header(facts: Facts) -> Html:
    state = ("finished", "done") if facts.finished else ("not finished", "open")
    method = facts.run.get("method")
    method = method if isinstance(method, dict) else {}
    lora = method.get("lora")
    words = [
        str(facts.run.get("task", "")),
        str(method.get("policy", "")),
        f"LoRA r={lora.get('r')}" if isinstance(lora, dict) else "",
        str(method.get("quantization") or ""),
        {"cuda": "GPU", "cpu": "CPU"}.get(facts.device, facts.device) if facts.plan else "",
    ]
    chips = [element("span", word, class_="chip") for word in words if word]
    chips.append(element("span", state[0], class_=f"chip {state[1]}"))
    top = element(
        "div", element("p", "Training report", class_="over"), element("h1", _name(facts)), element("p", *chips)
    )
    numbers = [
        element("div", element("dt", what), element("dd", value), element("dd", beside, class_="beside"))
        for what, value, beside in tiles(facts)
    ]
    return element("header", top, element("dl", *numbers, class_="tiles-row"))


def _main(facts: Facts) -> Iterable[Html]:
    found = curves(facts.records, facts.steps)
    if not found:
        yield element("p", "There are no records of training yet.", class_="card empty")
    yield from _grid("wide first", found)
    memory = memory_chart(
        facts.records, facts.size("planned", "peak_bytes"), facts.size("planned", "gpu_bytes"), facts.device
    )
    yield from _grid("wide", [memory])
    tensors = facts.plan.get("tensors")
    yield from _grid("wide", [model_map(tensors) if isinstance(tensors, list) else None])
    yield from _grid("", others(facts.records, facts.steps))
    yield from _grid("", [memory_table(facts), time_table(facts)])
    run = {key: value for key, value in facts.run.items()}
    yield from _grid("", [settings("Run", run), settings("Made with", facts.made_with)])


def _grid(look: str, cards: Sequence[Html | None]) -> Iterable[Html]:
    there = [card for card in cards if card is not None]
    if there:
        yield element("div", join(*there), class_=f"grid {look}".strip())


def _name(facts: Facts) -> str:
    return str(facts.run.get("model") or "A run")
