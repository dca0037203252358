"""The memory that a plan may fill: what a card has, less a margin that is kept free."""

from dataclasses import dataclass, field

from .cards import card_named
from .errors import HybridOptError, check_number
from .sizes import bytes_of, gib, parse_size

__all__ = ["MARGIN", "Budget", "budget", "check_margin"]

MARGIN = 0.04  # of the card: for holes in the allocator's pool, and for what else is shown on a screen
AUTO = "auto"


@dataclass(frozen=True)
class Budget:
    """Memory to plan for.

    Args:
        total: bytes that there are.
        kept: of them, bytes that no recommendation takes.
        card: what has them; "": not known.
        asked: how they were asked for, as an option takes it.
    """

    total: int
    kept: int = 0
    card: str = ""
    asked: str = field(default="", compare=False)

    @property
    def usable(self) -> int:
        """Return the bytes that a plan may take."""
        return self.total - self.kept

    def __str__(self) -> str:
        kept = f", of which {gib(self.kept)} are kept free" if self.kept else ""
        return f"{self.card + ': ' if self.card else ''}{gib(self.total)}{kept}"


def budget(memory: "str | int | Budget", margin: float | None = None, name: str = "memory") -> Budget:
    """Return the budget for a GPU.

    Args:
        memory: the name of a card ("4090", "RTX A6000", "a100 80"), "auto" for what this machine's first GPU has free,
            a size with a unit ("24GiB"), or bytes.
        margin: share of it that is kept free, from 0 and below 1; None: MARGIN.
        name: of the option, for errors.

    Raises:
        HybridOptError: the card or the unit is not known, there is no GPU here, or the margin is not allowed.
    """
    if isinstance(memory, Budget):
        return memory
    share = MARGIN if margin is None else margin
    check_margin(share)
    total, card = _sized(memory, name)
    return Budget(total, int(total * share), card, memory if isinstance(memory, str) else f"{total}B")


def check_margin(share: float) -> None:
    """Raise HybridOptError for a share of memory to keep free that is not from 0 and below 1."""
    check_number("plan", "margin", share, 0, 1, open_end=True)


def _sized(memory: str | int, name: str) -> tuple[int, str]:
    if isinstance(memory, str) and memory.strip().lower() == AUTO:
        return _here(name)
    found = card_named(memory, name) if isinstance(memory, str) and not _is_size(memory) else None
    return (found.bytes, found.name) if found else (bytes_of(memory, name), "")


def _is_size(text: str) -> bool:
    """Return whether a text is a size; "80GB" could be read as the end of a card's name, too."""
    try:
        return parse_size(text) > 0
    except HybridOptError:
        return False


def _here(name: str) -> tuple[int, str]:
    """Return what the first GPU of this machine has free for torch, and what it is called."""
    import torch

    from .devices import free_bytes

    if not torch.cuda.is_available():
        raise HybridOptError(f"{name}='auto': torch finds no GPU on this machine; name one (4090, h100), or say 24GiB")
    device = torch.device("cuda", 0)
    total = torch.cuda.mem_get_info(device)[1]
    return free_bytes(device), f"{torch.cuda.get_device_name(device)} ({gib(total)}, now free)"
