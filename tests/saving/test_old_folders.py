"""Folders saved before files moved into rooms: "splits.block" and "rules.lion" still mean their parts."""

import json
from pathlib import Path

import pytest
import torch

import hybridopt
from hybridopt.saving.names import CONFIG
from support.models import batch, tiny_llama

FOLDERS = Path(__file__).parent / "before_rooms"
LOGITS = json.loads((FOLDERS / "logits.json").read_text())


@pytest.mark.parametrize("name", LOGITS)
def test_old_folders_give_their_logits_and_train_on(name):
    model = hybridopt.from_pretrained(tiny_llama(), FOLDERS / name)
    model.eval()
    with torch.no_grad():
        found = model(**batch(model)).logits.flatten()[: len(LOGITS[name])]
    torch.testing.assert_close(found, torch.tensor(LOGITS[name]), rtol=1e-5, atol=1e-6)
    optimizer = model.hybrid.optimizer(lr=1e-2)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    if name == "mezo":
        optimizer.step(lambda: model(**batch(model)).loss)
    else:
        model(**batch(model)).loss.backward()
        optimizer.step()
    assert any(not torch.equal(x, before[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize("name", LOGITS)
def test_what_they_say_is_written_again_in_the_same_words(name, tmp_path):
    hybridopt.from_pretrained(tiny_llama(), FOLDERS / name).hybrid.save_pretrained(tmp_path / name)
    old, new = (json.loads((folder / name / CONFIG).read_text()) for folder in (FOLDERS, tmp_path))
    kept = old.keys() - {"hybridopt", "base", "replayed"}  # the version, and what a second save holds as tensors
    added = {"solver": "exact", "spread": False} if old["policy"].get("part") == "policies.galore" else {}
    added |= {"store": None} if "codec" in old["policy"] else {}
    added |= {"embeddings_lr_scale": 1.0} if "part" in old["policy"] else {}
    old["policy"] |= added  # options that policies have got since, at what they did then
    assert {key: new[key] for key in kept} == {key: old[key] for key in kept}
