"""Short memory is told apart from damaged files, wherever files are read."""

import errno

import pytest
import torch
from safetensors import SafetensorError

import hybridopt
from hybridopt import HybridOptError
from hybridopt.core.files import tensors
from hybridopt.core.out_of_memory import out_of_memory
from hybridopt.core.patching import instead
from hybridopt.model.loading import materializing, streaming
from support.models import tiny_llama

SHORT = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("unable to mmap 4096 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    SafetensorError("I/O error: Cannot allocate memory (os error 12)"),
    OSError(errno.EMFILE, "Too many open files"),
]
DAMAGE = [OSError(errno.EIO, "Input/output error"), SafetensorError("InvalidHeader"), RuntimeError("shape mismatch")]


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize("error", SHORT, ids=repr)
def test_what_says_that_memory_is_short(error):
    assert out_of_memory(error)


@pytest.mark.parametrize("error", DAMAGE, ids=repr)
def test_what_does_not(error):
    assert not out_of_memory(error)


@pytest.mark.parametrize("error", SHORT + DAMAGE, ids=repr)
def test_reading_tensors(tmp_path, error):
    path = tmp_path / "x.safetensors"
    tensors.save({"a": torch.ones(3)}, path)
    with instead(tensors, "load_file", raising(error)), pytest.raises(HybridOptError) as told:
        tensors.load(path, "the run")
    short = error in SHORT
    assert ("memory is short" in str(told.value)) == short and ("restore the file" in str(told.value)) != short
    assert tensors.load(path, "the run")["a"].equal(torch.ones(3))


@pytest.mark.parametrize("error", SHORT, ids=repr)
def test_loading_a_model(tmp_path, error):
    tiny_llama(hidden=16).save_pretrained(tmp_path)
    for module, name in ((materializing, "_put"), (streaming, "finish")):
        with instead(module, name, raising(error)):
            with pytest.raises(HybridOptError, match="load: .*memory is short.*free"):
                hybridopt.load(tmp_path)
    hybridopt.load(tmp_path)


def test_other_errors_stay_what_they_are(tmp_path):
    tiny_llama(hidden=16).save_pretrained(tmp_path)
    with (
        instead(materializing, "_put", raising(RuntimeError("a defect"))),
        pytest.raises(RuntimeError, match="^a defect"),
    ):
        hybridopt.load(tmp_path)
