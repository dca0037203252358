"""Tensors of one form are recognized, by one call of torch where nothing has changed, and no others."""

import pytest
import torch
from torch import nn

from hybridopt.execution import tensor_guards
from hybridopt.execution.tensor_guards import LyingForm, Unmoved


class Other(torch.Tensor):
    pass


def made():
    return [nn.Parameter(torch.ones(3, 4)), torch.ones(5), torch.ones(2, 6, dtype=torch.bfloat16)]


CHANGES = {
    "dtype": lambda x: x.view(torch.int32),
    "shorter": lambda x: x[..., :2].contiguous(),
    "transposed": lambda x: x.t(),
    "not contiguous": lambda x: torch.stack([x, x], -1)[..., 0],
    "negated": torch._neg_view,
    "without memory": lambda x: torch._efficientzerotensor(x.shape),
    "on another device": lambda x: x.to("meta"),
    "a subclass": lambda x: x.as_subclass(Other),
    "nothing": lambda x: None,
}


@pytest.fixture(params=[True, False], ids=["guarded", "one by one"])
def form(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(tensor_guards, "guards", None)
    return LyingForm.of(made())


def test_what_is_alike_is_asked_of_torch_once(monkeypatch):
    form, xs, asked, in_order = LyingForm.of(made()), made(), [], tensor_guards._in_order
    monkeypatch.setattr(tensor_guards, "_in_order", lambda xs: asked.append(len(xs)) or in_order(xs))
    assert form.fits(xs) and form.fits(xs) and form.fits(made())
    assert asked == [3]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_has_another_form_is_seen(form, change):
    xs = made()
    assert form.fits(xs) and form.fits(xs)
    for place in (0, 1, 2):
        some = made()
        if place and change is CHANGES["dtype"]:
            continue
        some[place] = change(some[place].detach().view(3, -1) if some[place].numel() == 12 else some[place].view(1, 5))
        wanted = some[place] is not None and place == 1 and change is CHANGES["transposed"]  # of one row
        assert form.fits(some) == wanted
        assert form.fits(xs)


def test_another_shape_of_as_many_numbers_fits_all_the_same(form):
    xs = made()
    assert form.fits(xs) and form.fits([xs[0].view(12), *xs[1:]])
    assert not form.fits(xs[:2]) and not form.fits([*xs, xs[1]])


def test_what_lies_elsewhere_has_moved(form):
    xs = made()
    before = Unmoved(form, [x.data_ptr() for x in xs])
    assert before.fits(xs) and before.fits(xs)
    xs[1] = xs[1].clone()
    assert form.fits(xs) and not before.fits(xs)
