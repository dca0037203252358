"""`load_state_dict` onto weights that rest on disk and have a folder to be kept in: what trainers resume by."""

import torch

import hybridopt
from hybridopt import Placement
from support.models import batch
from support.placed import folder


def test_trained_weights_on_disk_take_a_state_and_go_on_as_resident_ones_do(tmp_path):
    other = {name: x * 1.25 for name, x in hybridopt.load(folder()).state_dict().items()}
    ends = []
    for where in (None, Placement("disk", slots=2, cache=tmp_path / "working", write_every=3)):
        model = hybridopt.wrap(hybridopt.load(folder(), placement=where), policy="mezo")
        optimizer = model.hybrid.optimizer(lr=1e-3)
        inputs = batch(model)
        for step in range(4):
            optimizer.step(lambda model=model, inputs=inputs: model(**inputs).loss)
            if step == 1:
                model.load_state_dict(other)
                assert all(torch.equal(x, other[name]) for name, x in model.state_dict().items())
        ends.append({name: x.clone() for name, x in model.state_dict().items()})
    assert all(torch.equal(x, ends[1][name]) for name, x in ends[0].items())
