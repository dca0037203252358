"""The map of a model: every tensor a cell, its area by bytes, its colour by tag, layers together."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.sizes import human
from .markup import Html, data, element
from .plot import key_entry
from .treemap import Box, squarified

__all__ = ["TAGS", "layer_of_tensor", "model_map"]

TAGS = {  # in the order of the legend, with what each means
    "state-full": "trained, with optimizer state",
    "split": "trained, a part of it with state",
    "state-free": "trained, without state",
    "frozen": "not trained",
}
WIDTH, HEIGHT = 1000.0, 560.0
HEAD, EDGE = 15.0, 1.5  # of a layer, for its name and around it
MOST = 4000  # cells; above that tensors of one layer, role and tag share one
LAYER = re.compile(r"^(.*?\.\d+)(?:\.|$)")
OUTER = re.compile(r"^(?:base_model\.model\.)?(?:model\.)?")

Tensors = Sequence[Mapping[str, Any]]


def model_map(tensors: Tensors) -> Html | None:
    """Return the map with its legend, or None without tensors; see `watching.memory.tensor_map`."""
    cells = [dict(each) for each in tensors]
    if not cells:
        return None
    drawn = cells if len(cells) <= MOST else _joined(cells)
    layers: dict[str, list[dict[str, Any]]] = {}
    for cell in drawn:
        layers.setdefault(layer_of_tensor(cell["name"]), []).append(cell)
    boxes = squarified([sum(c["bytes"] for c in group) for group in layers.values()], Box(0, 0, WIDTH, HEIGHT))
    shapes, words, order = [], [], []
    for (layer, group), box in zip(layers.items(), boxes, strict=True):
        inner = box.within(EDGE, HEAD)
        words.append(_name(layer, box))
        for cell, place in zip(group, squarified([c["bytes"] for c in group], inner), strict=True):
            shapes.append(_cell(cell, place))
            order.append(cell)
    view = f"0 0 {WIDTH:g} {HEIGHT:g}"
    picture = element(
        "svg", *shapes, viewBox=view, preserveAspectRatio="none", role="img", aria_label="map of the model"
    )
    head = element("figcaption", element("h3", "Map of the model"), element("p", _about(cells, len(drawn))))
    told = [[c["name"], c.get("role", ""), c["tag"], _shape(c), human(c["bytes"])] for c in order]
    legend = element("div", *_legend(cells), class_="legend")
    plot = element("div", picture, *words, class_="tiles")
    return element("figure", head, legend, plot, data(told), class_="card map")


def layer_of_tensor(name: str) -> str:
    """Return the name of the layer that a tensor is shown in: "layers.3", or its module outside of the layers."""
    bare = OUTER.sub("", name, count=1)
    found = LAYER.match(bare)
    return found[1] if found else bare.partition(".")[0]


def _cell(cell: Mapping[str, Any], box: Box) -> Html:
    x, y, width, height = (f"{value:.2f}".rstrip("0").rstrip(".") for value in (box.x, box.y, box.width, box.height))
    look = f"t-{cell['tag']}" if cell["tag"] in TAGS else None
    return element("rect", x=x, y=y, width=width, height=height, class_=look)


def _name(layer: str, box: Box) -> Html:
    shares = {"left": box.x / WIDTH, "top": box.y / HEIGHT, "width": box.width / WIDTH, "height": box.height / HEIGHT}
    place = ";".join(f"{edge}:{share:.2%}" for edge, share in shares.items())
    return element("span", element("b", layer), class_="name", style=place)


def _joined(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one cell for all tensors of a layer that have the same role and tag."""
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for cell in cells:
        kinds.setdefault((layer_of_tensor(cell["name"]), cell.get("role", ""), cell["tag"]), []).append(cell)
    return [
        {"name": f"{layer}, {len(group)} tensors", "role": role, "tag": tag, "bytes": sum(c["bytes"] for c in group)}
        if len(group) > 1
        else group[0]
        for (layer, role, tag), group in kinds.items()
    ]


def _about(cells: Sequence[Mapping[str, Any]], drawn: int) -> str:
    size = human(sum(cell["bytes"] for cell in cells))
    share = "A cell is a tensor" if drawn == len(cells) else f"A cell is a tensor, or several ({drawn:,} cells)"
    return f"{len(cells):,} tensors, {size}. {share}; its area is its bytes."


def _legend(cells: Sequence[Mapping[str, Any]]) -> list[Html]:
    total = sum(cell["bytes"] for cell in cells) or 1
    found = []
    for tag, meaning in TAGS.items():
        sizes = [cell["bytes"] for cell in cells if cell["tag"] == tag]
        if sizes:
            text = f"{tag}: {meaning}; {human(sum(sizes))}, {sum(sizes) / total:.1%}"
            found.append(key_entry(text, f"t-{tag}"))
    return found


def _shape(cell: Mapping[str, Any]) -> str:
    return " × ".join(map(str, cell.get("shape", ())))
