"""Cards by name, sizes with a unit, and the margin that is kept free."""

from types import SimpleNamespace

import pytest
import torch

from hybridopt import HybridOptError
from hybridopt.core.budget import MARGIN, Budget, budget
from hybridopt.core.cards import CARDS, card_named
from hybridopt.core.sizes import GIB


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("4090", "RTX 4090 24 GB"),
        ("rtx4090", "RTX 4090 24 GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090 24 GB"),
        ("rtx-3060-12gb", "RTX 3060 12 GB"),
        ("4070 Ti Super", "RTX 4070 Ti Super 16 GB"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "RTX 4090 Laptop 16 GB"),
        ("a100 80", "A100 80 GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB"),
        ("NVIDIA H100 80GB HBM3", "H100 80 GB"),
        ("H100 NVL", "H100 NVL 94 GB"),
        ("Tesla V100-SXM2-32GB", "V100 32 GB"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada 48 GB"),
        ("l4", "L4 24 GB"),
        ("l40s", "L40S 48 GB"),
    ],
)
def test_a_card_has_many_names(name, card):
    assert card_named(name).name == card


def test_every_card_is_found_by_its_names_and_has_less_than_they_say():
    for card in CARDS:
        assert all(card_named(name) is card for name in (card.name, *card.others))
        stated = int(card.name.split()[-2])
        assert 0.9 * stated < card.gib < stated and card.source


@pytest.mark.parametrize(
    ("name", "say"),
    [
        ("a100", "'A100 80 GB' or 'A100 40 GB'"),
        ("4060 ti", "'RTX 4060 Ti 16 GB' or 'RTX 4060 Ti 8 GB'"),
        ("rtx4091", "did you mean RTX 4090 24 GB"),
        ("4009", "did you mean .*RTX 4090"),
        ("mi300", "known are B200"),
        ("24", "has no unit; write '24GiB'"),
        ("24XB", "unit 'XB' is not known"),
        ("", "is no size"),
        (0, "memory=0"),
        (True, "True"),
    ],
)
def test_what_is_no_card_says_what_is_near(name, say):
    with pytest.raises(HybridOptError, match=say):
        budget(name)


@pytest.mark.parametrize("text", ["4900", "a100", "24"])
def test_errors_name_the_option_that_it_was_given_for(text):
    with pytest.raises(HybridOptError, match=f"^--gpu='{text}' "):
        budget(text, name="--gpu")


def test_a_size_or_bytes_are_no_card():
    assert budget("80GB", 0) == Budget(80 * 10**9) and budget(4090) == Budget(4090, int(4090 * MARGIN))


def test_the_margin_is_a_share_of_what_torch_reports():
    room = budget("4090", 0.1)
    assert room.total == int(23.61 * GIB) and room.kept == int(room.total * 0.1)
    assert room.usable == room.total - room.kept and str(room).startswith(
        "RTX 4090 24 GB: 23.61 GiB, of which 2.36 GiB"
    )
    for bad in (1, -0.1, float("nan"), "a tenth"):
        with pytest.raises(HybridOptError, match="margin"):
            budget("4090", bad)


def test_auto_is_what_the_card_of_this_machine_has_free(monkeypatch):
    told = {
        "is_available": lambda: True,
        "mem_get_info": lambda i: (18 * GIB, 24 * GIB),
        "memory_reserved": lambda i: 5 * GIB,  # of which 2 are in torch's cache, and free for it
        "memory_allocated": lambda i: 3 * GIB,
        "get_device_name": lambda i: "X",
    }
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(**told))
    assert budget("auto", 0) == Budget(20 * GIB, 0, "X (24.00 GiB, now free)")
    told["is_available"] = lambda: False
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(**told))
    with pytest.raises(HybridOptError, match="finds no GPU on this machine; name one"):
        budget(" AUTO ")
