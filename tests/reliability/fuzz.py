"""Files and states that were spoilt at random."""

import random
import shutil
import tempfile
from functools import cache
from pathlib import Path

import hybridopt
from hybridopt import HybridOptError
from support import hostile_folders, hostile_states
from support.attacks import Attack
from support.models import tiny_llama
from support.saved import anatomy, bits, different, logits


@cache
def _original():
    place = tempfile.mkdtemp()
    hostile_folders.make(Path(place))
    return place, logits(hybridopt.from_pretrained(tiny_llama(), place))


def damaged(seed):
    """Flip bits of a file, cut it, remove it, or fill it: without a manifest made anew."""
    rng, (original, expected) = random.Random(seed), _original()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(original, Path(place) / "copy"))
        path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        data = bytearray(path.read_bytes())
        how = rng.choice(("flip", "cut", "remove", "zeros", "more"))
        if how == "flip":
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif how == "cut":
            del data[rng.randrange(len(data)) :]
        elif how == "zeros":
            data[:] = bytes(len(data))
        elif how == "more":
            data += rng.randbytes(rng.randrange(1, 99))
        path.write_bytes(data)
        if how == "remove":
            path.unlink()
        base = tiny_llama()
        before, build = bits(base), anatomy(base)
        try:
            found = hybridopt.from_pretrained(base, folder)
        except HybridOptError:
            assert anatomy(base) == build and not different(bits(base), before), f"{path.name}, {how}: model changed"
            return "refused"
        except Exception as error:
            raise AssertionError(f"{path.name}, {how}: {type(error).__name__}: {error}") from error
        assert logits(found).equal(expected), f"{path.name}, {how}: loads, and says something else"
        return "harmless"


def folder(seed):
    """Spoil the JSON of a saved folder, and make its manifest anew."""
    kind, text, seconds = hostile_folders.attack(seed, _original()[0])
    assert kind in ("refused", "loaded"), text
    assert seconds < 20, f"{text}: took {seconds:.0f} s"
    return kind


def state(seed):
    """Spoil the state dict of an optimizer."""
    kind, text = hostile_states.attack(seed)
    assert kind in ("refused", "loaded"), text
    return kind


ATTACKS = {
    "damaged files": Attack(
        "a file of a saved folder is flipped, cut, filled, lengthened or removed",
        "HybridOptError and an untouched model, or the same bits",
        damaged,
        rounds=1000,
        few=20,
    ),
    "hostile folders": Attack(
        "configurations are spoilt at random and the manifest is made anew",
        "HybridOptError within seconds and an untouched model, or a model that answers with finite numbers",
        folder,
        rounds=500,
        few=8,
    ),
    "hostile optimizer states": Attack(
        "a saved state dict is spoilt at random",
        "HybridOptError and nothing changed, or a load that trains on with finite weights",
        state,
        rounds=1000,
        few=25,
    ),
}
