"""Saved folders whose JSON is spoilt at random, by seed, under a fitting manifest: each is refused, or loads."""

import json
import random
import shutil
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
from peft import LoraConfig

import hybridopt
from hybridopt import HybridOptError
from hybridopt.saving import manifest
from support.models import tiny_llama
from support.saved import anatomy, bits, different, logits, train

CATASTROPHE = r"(([a-z0-9_]+)\.?)+!"
STRINGS = ("", "x", "x" * 5000, CATASTROPHE, "(a|a)*" * 9, ".*" * 9 + "!", "(", "[", "\\", "../../etc", "/etc/passwd")
STRINGS += (
    "a\0b",
    "loftq",
    "corda",
    "eva",
    "pissa",
    "olora",
    "pissa_niter_4",
    "lm_head",
    "os.system",
    "nf4",
    "$" * 99,
)
NUMBERS = (0, 1, 2, -1, 7, 10**9, 10**12, 2**63 - 1, -(2**63), 0.5, -0.5, 1e300, 1e-300)
OTHERS = (None, True, False, [], {}, [[]], [None], {"a": {"b": []}}, [0, 10**9], [[0, 10**9]], [[0, 1], [1, 2]], [""])
KEYS = ("surprise", CATASTROPHE, "runtime_config", "megatron_config", "r", "format", "", "layer_replication")


def make(folder):
    """Two adapters, changed norms and a quantized base, saved; returns the base's maker."""
    model = hybridopt.wrap(tiny_llama(), peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]), seed=2)
    model.add_adapter("second", LoraConfig(r=2, target_modules=["down_proj"], rank_pattern={"0.mlp.down_proj": 3}))
    for name, p in model.named_parameters():
        if "norm" in name:
            p.requires_grad_(True)
    train(model, 2)
    model.hybrid.save_pretrained(folder)


def spoil(folder, rng):
    """Change one of the JSON files in a folder, and make its manifest anew; says what."""
    name = rng.choice(("adapter_config.json",) * 4 + ("second/adapter_config.json",) * 2 + ("hybridopt_config.json",))
    data = json.loads((folder / name).read_text())
    done = [_change(data, rng) for _ in range(rng.choice((1, 1, 1, 2, 4)))]
    text = json.dumps(data)
    raw = rng.random()
    if raw < 0.05:
        text, done = text[: rng.randrange(len(text))], [*done, "cut"]
    elif raw < 0.08:
        text, done = text.replace("{", '{"r": 1, "r": 2, ', 1), [*done, "doubled"]
    elif raw < 0.1:
        text, done = "[" * 5000 + text, [*done, "deep"]
    data = text.encode() if raw < 0.95 else text.encode() + b"\xff\xfe"
    (folder / name).write_bytes(data)
    (folder / manifest.MANIFEST).unlink()
    manifest.seal(folder)
    return f"{name}: {'; '.join(done)}"


def _change(data, rng):
    places = [(data, key, key) for key in data]
    for key, value in data.items():
        if isinstance(value, dict | list) and len(value) < 100:
            inner = value if isinstance(value, dict) else range(len(value))
            places += [(value, each, f"{key}/{each}") for each in inner]
    holder, key, path = rng.choice(places)
    act = rng.choice(("string", "number", "other", "drop", "add"))
    if act == "drop":
        del holder[key]
    elif act == "add" and isinstance(holder, dict):
        key = path = rng.choice(KEYS)
        holder[key] = rng.choice((*STRINGS, *NUMBERS, *OTHERS))
    else:
        holder[key] = rng.choice({"string": STRINGS, "number": NUMBERS}.get(act, OTHERS))
    return f"{path} {act} {holder[key] if key in holder or isinstance(holder, list) and act != 'drop' else ''!r:.40}"


def attack(seed, original):
    """Spoil a copy of `original` by a seed and load it; returns (outcome, text, seconds)."""
    rng, base = random.Random(seed), tiny_llama()
    before, build, start = bits(base), anatomy(base), time.perf_counter()
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(shutil.copytree(original, Path(place) / "copy"))
        text = f"seed {seed}, {spoil(folder, rng)}"
        try:
            loaded = hybridopt.from_pretrained(base, folder)
        except HybridOptError as error:
            same = anatomy(base) == build and not different(bits(base), before)
            kind = "refused" if same else "changed"
            return kind, f"{text}: {error}", time.perf_counter() - start
        except Exception as error:
            return "foreign", f"{text}: {type(error).__name__}: {error}", time.perf_counter() - start
        seconds = time.perf_counter() - start
        good = bool(torch.isfinite(logits(loaded)).all())
        return "loaded" if good else "not finite", text, seconds


def campaign(seeds):
    """Attack by every seed; the outcomes counted, the texts of those that should not be, and the longest time."""
    with tempfile.TemporaryDirectory() as original:
        make(Path(original))
        found = [attack(seed, original) for seed in seeds]
    bad = [text for kind, text, _ in found if kind not in ("refused", "loaded")]
    return Counter(kind for kind, _, _ in found), bad, max(seconds for *_, seconds in found)
