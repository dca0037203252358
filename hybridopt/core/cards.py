"""GPUs by name, with the memory that torch reports for them, which is less than their name says."""

import re
from dataclasses import dataclass
from difflib import get_close_matches

from .errors import HybridOptError

__all__ = ["CARDS", "Gpu", "card_named", "plain"]

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Args:
        name: as its maker calls it.
        gib: GiB that torch reports: the least that was seen, as drivers and error correction differ.
        source: where it was seen: a public message of torch ("total capacity of 23.64 GiB") in an issue of GitHub, or
            "derived" from a card with as much memory.
        others: further names.
    """

    name: str
    gib: float
    source: str
    others: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Return the bytes that torch reports."""
        return int(self.gib * GIB)


SEEN = "messages of torch in public logs"
CARDS = (
    Gpu("B200 180 GB", 178.35, SEEN, ("b200",)),
    Gpu("H200 141 GB", 139.72, SEEN, ("h200",)),
    Gpu("GH200 96 GB", 94.0, "derived: below RTX PRO 6000", ("gh200",)),
    Gpu("RTX PRO 6000 96 GB", 94.96, SEEN, ("pro6000", "6000pro", "pro6000blackwell")),
    Gpu("H100 NVL 94 GB", 93.0, "ali-vilab/VACE#56", ("h100nvl",)),
    Gpu("H100 80 GB", 79.1, "vllm-project/vllm#27508 has 79.11", ("h100",)),
    Gpu("A100 80 GB", 79.14, "levihsu/OOTDiffusion#235 has 79.25, public logs 79.14", ("a10080",)),
    Gpu("A100 40 GB", 39.38, "TianheWu/CoSeR#10 has 39.50, public logs 39.38", ("a10040",)),
    Gpu("RTX 6000 Ada 48 GB", 44.43, "DINGYANB/MTVCrafter#21, with error correction", ("6000ada", "ada6000")),
    Gpu("RTX A6000 48 GB", 47.4, SEEN, ("a6000",)),
    Gpu("L40S 48 GB", 44.43, "Wan-Video/Wan2.1#205 has 44.53", ("l40s",)),
    Gpu("L40 48 GB", 44.43, "derived: RTX 6000 Ada", ("l40",)),
    Gpu("A40 48 GB", 44.34, "derived: below RTX 6000 Ada", ("a40",)),
    Gpu("RTX 5090 32 GB", 31.36, "TrajectoryCrafter/TrajectoryCrafter#20", ("5090",)),
    Gpu("V100 32 GB", 31.73, "liucongg/ChatGLM-Finetuning#73 has 31.74", ("v10032",)),
    Gpu("V100 16 GB", 15.7, "derived: below 31.73 / 2", ("v10016",)),
    Gpu("RTX 4090 24 GB", 23.61, "pinokiofactory/flux-webui#11", ("4090",)),
    Gpu("RTX 3090 Ti 24 GB", 23.61, "derived: RTX 4090", ("3090ti",)),
    Gpu("RTX 3090 24 GB", 23.68, "Lightning-AI/lit-llama#137 has 23.70, public logs 23.68", ("3090",)),
    Gpu("RTX A5000 24 GB", 23.53, "derived: A30", ("a5000",)),
    Gpu("Titan RTX 24 GB", 23.53, "derived: A30", ("titan",)),
    Gpu("A30 24 GB", 23.53, "google/RB-Modulation#5", ("a30",)),
    Gpu("L4 24 GB", 22.03, SEEN, ("l4",)),
    Gpu("A10G 24 GB", 22.03, "derived: L4", ("a10g",)),
    Gpu("A10 24 GB", 22.03, "derived: L4; tatsu-lab/stanford_alpaca#76 has 23.70 without error correction", ("a10",)),
    Gpu("RTX 5080 16 GB", 15.45, "derived: 15.48 to 15.60 in public logs of 16 GB", ("5080",)),
    Gpu("RTX 5070 Ti 16 GB", 15.45, "derived: RTX 5080", ("5070ti",)),
    Gpu("RTX 5060 Ti 16 GB", 15.45, "derived: RTX 5080", ("5060ti16",)),
    Gpu("RTX 4090 Laptop 16 GB", 15.45, "derived: RTX 5080", ("4090laptop", "laptop4090")),
    Gpu("RTX 4080 Super 16 GB", 15.45, "derived: RTX 5080", ("4080super",)),
    Gpu("RTX 4080 16 GB", 15.45, "derived: RTX 5080", ("4080",)),
    Gpu("RTX 4070 Ti Super 16 GB", 15.45, "derived: RTX 5080", ("4070tisuper",)),
    Gpu("RTX 4060 Ti 16 GB", 15.45, "derived: RTX 5080", ("4060ti16",)),
    Gpu("RTX A4000 16 GB", 15.61, "DengKaiCQ/VGGT-Long#6", ("a4000",)),
    Gpu("P100 16 GB", 15.7, "derived: V100 16 GB", ("p100",)),
    Gpu("T4 16 GB", 14.56, "derived: below hpcaitech/Open-Sora#697, which has 14.75", ("t4",)),
    Gpu("RTX 3060 12 GB", 11.62, "TencentARC/PhotoMaker#47 has 11.76, public logs 11.62", ("3060",)),
    Gpu("RTX 3080 12 GB", 11.49, "derived: the least of 12 GB in public logs", ("308012",)),
    Gpu("RTX 3080 Ti 12 GB", 11.49, "derived: RTX 3080 12 GB", ("3080ti",)),
    Gpu("RTX 4070 12 GB", 11.49, "derived: RTX 3080 12 GB", ("4070",)),
    Gpu("RTX 4070 Super 12 GB", 11.49, "derived: RTX 3080 12 GB", ("4070super",)),
    Gpu("RTX 4070 Ti 12 GB", 11.49, "derived: RTX 3080 12 GB", ("4070ti",)),
    Gpu("RTX 5070 12 GB", 11.49, "derived: RTX 3080 12 GB", ("5070",)),
    Gpu("RTX 2080 Ti 11 GB", 10.53, "derived: 11 times the least per GB of 12 GB", ("2080ti",)),
    Gpu("GTX 1080 Ti 11 GB", 10.53, "derived: RTX 2080 Ti", ("1080ti",)),
    Gpu("RTX 3080 10 GB", 9.77, "zai-org/CogVideo#34 has 9.78", ("308010",)),
    Gpu("RTX 5060 Ti 8 GB", 7.6, "derived: RTX 4060", ("5060ti8",)),
    Gpu("RTX 5060 8 GB", 7.6, "derived: RTX 4060", ("5060",)),
    Gpu("RTX 4060 Ti 8 GB", 7.6, "derived: RTX 4060", ("4060ti8",)),
    Gpu("RTX 4060 8 GB", 7.6, "the least of 8 GB in public logs", ("4060",)),
    Gpu("RTX 3070 Ti 8 GB", 7.6, "derived: RTX 4060", ("3070ti",)),
    Gpu("RTX 3070 8 GB", 7.6, "derived: RTX 4060", ("3070",)),
    Gpu("RTX 3060 Ti 8 GB", 7.6, "derived: RTX 4060", ("3060ti",)),
    Gpu("RTX 2080 8 GB", 7.6, "derived: RTX 4060", ("2080",)),
    Gpu("RTX 2070 8 GB", 7.6, "derived: RTX 4060", ("2070",)),
    Gpu("RTX 3050 8 GB", 7.6, "derived: RTX 4060", ("3050",)),
    Gpu("RTX 2060 6 GB", 5.7, "derived: JiehongLin/SAM-6D#13 has 5.80 for 6 GB", ("2060",)),
)
WORDS = r"nvidia|geforce|tesla|quadro|graphics|generation|edition|gpu|rtx|gtx|pcie|sxm\d?|hbm\d?e?|gb|gib"


def plain(name: str) -> str:
    """Return what tells a card: "NVIDIA A100-SXM4-80GB" becomes "a10080", and "GeForce RTX 4090" "4090"."""
    return re.sub(r"[^a-z0-9]", "", re.sub(rf"(?<![a-z])(?:{WORDS})(?![a-z])", "", _split(name)))


def card_named(name: str, option: str = "") -> Gpu | None:
    """Return the card of a name, with or without maker, series and gigabytes; None for what is no card's name.

    option: that the name was given for, for errors.

    Raises:
        HybridOptError: cards of this name have different memory, or a card of nearly this name is known.
    """
    wanted, given = plain(name), f"{option}={name!r}" if option else repr(name)
    found = _names().get(wanted)
    if found is not None:
        return found
    several = [card for card in CARDS if _short(card) == wanted]
    if several:
        sizes = " or ".join(f"{card.name!r}" for card in several)
        raise HybridOptError(f"{given} is sold with different memory; write {sizes}")
    near = get_close_matches(wanted, _names(), 3, 0.7)
    if wanted and ((near and len(wanted) > 2) or not wanted[0].isdigit()):
        known = list(dict.fromkeys(_names()[one].name for one in near)) or [card.name for card in CARDS]
        cure = f"did you mean {', '.join(known)}" if near else f"known are {', '.join(known)}"
        raise HybridOptError(f"{given} is no known GPU; {cure}? Or give its memory, such as 24GiB")
    return None


def _split(name: str) -> str:
    """Return a name in lower case, words and numbers apart where a word of WORDS is glued to a number."""
    return re.sub(r"(?<=\d)(?=(?:gb|gib)\b)|(?<=\brtx)(?=\d)|(?<=\bgtx)(?=\d)", " ", name.lower())


def _short(card: Gpu) -> str:
    """Return a card's plain name without its gigabytes."""
    return plain(re.sub(r" \d+ GB$", "", card.name))


def _names() -> dict[str, Gpu]:
    """Return cards by plain names, with their gigabytes and without where these are never in doubt."""
    found = {plain(card.name): card for card in CARDS}
    for card in CARDS:
        found |= dict.fromkeys(card.others, card)
        gigabytes = card.name.split()[-2]
        found |= {f"{other.removesuffix(gigabytes)}{gigabytes}": card for other in card.others}
    return found
