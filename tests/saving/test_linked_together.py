"""A folder of links to saved files is no place that people know."""

import pytest
from peft import LoraConfig

import hybridopt
from hybridopt import HybridOptError
from hybridopt.saving.folder import open_folder
from hybridopt.saving.held_adapters import together
from support.models import tiny_llama


def test_errors_name_the_saved_folder(tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj"])
    hybridopt.wrap(tiny_llama(), policy="frugal", peft_config=config).hybrid.save_pretrained(tmp_path)
    with pytest.raises(HybridOptError) as caught, open_folder(tmp_path) as saved, together(saved) as place:
        raise HybridOptError(f"{place}/adapter_config.json is odd", "load")
    assert str(caught.value) == f"load: {tmp_path}/adapter_config.json is odd"
    with pytest.raises(HybridOptError, match="^another$"), open_folder(tmp_path) as saved, together(saved):
        raise HybridOptError("another")
