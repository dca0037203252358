"""Folders whose layers stay in their files: of all makes, in bounded memory, and while the files change."""

import json
import os
import resource
import shutil
import struct
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.core_model_loading import Transpose, WeightConverter, WeightRenaming

import hybridopt
from hybridopt import HybridOptError, HybridOptWarning, Placement
from hybridopt.model.loading.matching import Match
from hybridopt.model.loading.weight_files import Stored
from hybridopt.model.placement.backends import mapped
from hybridopt.model.placement.backends.mapped import keeps_cached
from hybridopt.model.placement.placed import placed
from support import placed as tiny
from support.children import fork, status
from support.models import batch, tiny_llama, tiny_resnet

FOREIGN = "model.layers.0.self_attn.rotary_emb.inv_freq"  # that checkpoints used to hold
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(tiny.folder(), tmp_path / "base")
    return tmp_path / "base"


def logits(model):
    with torch.no_grad():
        return model(**batch(model)).logits


def same_as_resident(folder, **how):
    """A model on disk, after it was held against a resident one."""
    model = hybridopt.load(folder, placement=Placement("disk", slots=2), **how)
    assert torch.equal(logits(model), logits(hybridopt.load(folder, **how)))
    assert placed(model).traffic.read > 0
    return model


def split(folder, of):
    """Put every tensor into the file that `of` names, in the order in which they come."""
    tensors, files = load_file(folder / ONE), {}
    for number, name in enumerate(sorted(tensors)):
        files.setdefault(of(number, name), {})[name] = tensors[name]
    (folder / ONE).unlink()
    for file, held in files.items():
        save_file(held, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: file for file, held in files.items() for n in held}}
    (folder / INDEX).write_text(json.dumps(index))


def test_layers_that_are_split_over_files_are_read_from_all_of_them(folder):
    split(folder, lambda number, name: f"part-{number % 3}.safetensors")
    model = same_as_resident(folder)
    assert {len({piece.file for piece in unit.pieces}) for unit in placed(model).units} == {3}


def written_raw(path, tensors, shift=0):
    """A safetensors file with tensors in the order given; `shift` bytes of another tensor lie before them."""
    header, place, raw = {}, 0, b""
    if shift:
        header[FOREIGN] = {"dtype": "U8", "shape": [shift], "data_offsets": [0, shift]}
        place, raw = shift, bytes(shift)
    for name, x in tensors.items():
        data = x.contiguous().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": "BF16", "shape": list(x.shape), "data_offsets": [place, place + len(data)]}
        place, raw = place + len(data), raw + data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw)


def test_names_in_any_order_with_foreign_tensors_between(folder):
    tensors, mixed = load_file(folder / ONE), {}
    for number, name in enumerate(sorted(tensors, key=lambda name: name[::-1])):
        mixed |= {name: tensors[name], FOREIGN.replace("0", f"{number}"): torch.ones(8).bfloat16()}
    written_raw(folder / ONE, mixed)
    same_as_resident(folder)


def test_tensors_at_any_multiple_of_their_size_are_used_in_place_and_others_are_kept(folder, tmp_path):
    tensors = {name: x.clone() for name, x in load_file(folder / ONE).items()}  # its file is written again
    written_raw(folder / ONE, tensors, shift=2)
    same_as_resident(folder)
    written_raw(folder / ONE, tensors, shift=3)
    with pytest.raises(HybridOptError, match="at a place that is no multiple of its item size.*cache="):
        hybridopt.load(folder, placement="disk")
    model = hybridopt.load(folder, placement=Placement("disk", cache=tmp_path / "cache"))
    assert torch.equal(logits(model), logits(tiny.model_at("resident")))


def test_a_stored_tensor_that_is_turned_is_not_used_in_place():
    entry = Stored(Path("file"), "w", (4, 4), torch.bfloat16)
    plain, turned = WeightRenaming("w", "w"), WeightConverter("w", "w", operations=[Transpose(0, 1)])
    for conversion, found in ((plain, {"w": entry}), (turned, {})):
        match = Match(nn.Linear(1, 1), {"w": [(entry, "w")]}, {"w": conversion}, {"w": {"w": (4, 4)}})
        assert match.as_stored() == found


@pytest.mark.parametrize("tie", [False, True])
def test_other_weights_are_in_memory_and_ties_stay(tie):
    model = hybridopt.load(tiny.folder(tie), placement="disk")
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (embedding is head) == tie
    for x in (embedding, head, model.model.norm.weight, model.model.layers[0].input_layernorm.weight):
        assert x.untyped_storage().nbytes() == x.nbytes  # else it is a view of a whole file
    assert torch.equal(logits(model), logits(hybridopt.load(tiny.folder(tie))))


def test_a_model_without_a_list_of_layers_is_refused():
    with pytest.raises(HybridOptError, match="has no list of layers .*leave placement out"):
        tiny.stand_in(tiny_resnet())


def test_two_models_on_one_folder_do_not_disturb_each_other():
    one, two = (hybridopt.load(tiny.folder(), placement=Placement("disk", slots=2)) for _ in range(2))
    wanted = logits(tiny.model_at("resident"))
    for model in (one, two, one):
        assert torch.equal(logits(model), wanted)
    placed(one).rest()
    assert torch.equal(logits(two), wanted)


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


CHANGES = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "written": zeroed,
    "gone": lambda path: path.unlink(),
    "replaced": lambda path: shutil.copy(path, path.with_name("new")) and path.with_name("new").replace(path),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_meanwhile_is_an_error_at_the_next_fetch(folder, change):
    model = hybridopt.load(folder, placement=Placement("disk", slots=2))
    logits(model)
    placed(model).rest()
    CHANGES[change](folder / ONE)
    for _ in range(2):  # and it stays one
        with pytest.raises(HybridOptError, match=r"(was changed|is not there any more).*start again from the last"):
            logits(model)


def test_a_file_that_was_cut_before_is_refused_while_it_is_loaded(folder):
    os.truncate(folder / ONE, (folder / ONE).stat().st_size - 100)
    with pytest.raises(HybridOptError, match="cannot be read"):
        hybridopt.load(folder, placement="disk")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": "1GiB"}, "memory='1GiB' says how much weights may take where placement"),
        ({"host_memory": "1GiB"}, "host_memory='1GiB' says how much .*add placement='auto'"),
        ({"placement": "nvme"}, "placement"),
        ({"placement": "host"}, "placement='host' is not known for device='cpu'"),
        ({"placement": Placement("disk", resident=5)}, "resident=5 is not allowed: the model has 4 layers"),
        ({"placement": "disk", "memory": "100KiB"}, "missing"),
    ],
)
def test_what_does_not_fit_together_is_refused(options, words):
    with pytest.raises(HybridOptError, match=words):
        hybridopt.load(tiny.folder(), **options)


def test_auto_keeps_what_fits_and_leaves_the_rest_in_its_files():
    assert placed(hybridopt.load(tiny.folder(), placement="auto", memory="1GiB")) is None
    size = sum(p.nbytes for p in tiny_llama(layers=4).bfloat16().parameters())
    model = hybridopt.load(tiny.folder(), placement=Placement("auto", slots=2), memory=int(1.15 * size))
    assert placed(model).placement.base == "disk" and len(placed(model).units) == 3
    assert torch.equal(logits(model), logits(tiny.model_at("resident")))


@pytest.mark.parametrize(("size", "memory", "kept"), [(10, 10, True), (11, 10, False), (1, None, False)])
def test_the_systems_cache_is_used_where_everything_fits(size, memory, kept):
    assert keeps_cached(size, memory) == kept


@pytest.mark.parametrize("asked", [None, True, False])
def test_who_asks_decides_whether_the_cache_is_kept(asked, monkeypatch):
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *args: told.append(args))
    monkeypatch.setattr(mapped, "left", lambda root: 0)
    model = hybridopt.load(tiny.folder(), placement=Placement("disk", slots=2, keep_cached=asked))
    logits(model)
    placed(model).rest()
    assert bool(told) == (asked is not True)


def words(key):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    path = tmp_path_factory.mktemp("larger")
    logits(tiny.model_at("resident"))  # tables that are made once

    def make():  # in a process of its own, which leaves no memory behind that could be taken again
        model = tiny_llama(layers=16, hidden=512).bfloat16()
        assert sum(p.nbytes for p in model.model.layers.parameters()) > 72 << 20
        model.save_pretrained(path, max_shard_size="30MB")

    assert status(fork(make)) == 0
    return path


@pytest.mark.parametrize(("how", "fits"), [("disk", True), (None, False)])
def test_a_model_is_loaded_and_used_under_a_limit_that_its_layers_alone_exceed(larger, how, fits):
    def limited():
        held, before = [], words("VmData")
        while words("VmData") - before < 4 << 20:  # nothing is to be had that this process has and does not use
            held.append(torch.empty(1 << 18, dtype=torch.uint8))
        resource.setrlimit(resource.RLIMIT_DATA, (words("VmData") + (48 << 20),) * 2)
        try:
            with pytest.warns(HybridOptWarning, match="RLIMIT_DATA.*SIGSEGV") if fits else nullcontext():
                model = hybridopt.load(larger, placement=how and Placement("disk", slots=2))
            logits(model)
        except HybridOptError as error:
            assert "memory is short" in str(error)
            os._exit(7)

    assert status(fork(limited)) == (0 if fits else 7)


def test_layers_of_unequal_size_in_any_order_and_twice():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8 * n, 8 * n) for n in (1, 3, 1))

        def forward(self, x):
            return self.layers[2](self.layers[0](self.layers[2](x)))

    torch.manual_seed(0)
    model, x = Odd(), torch.ones(2, 8)
    wanted = model(x)
    tiny.stand_in(model)
    assert torch.equal(model(x), wanted)
