"""Spoilt JSON under a fitting manifest: only HybridOptError and an untouched model, or a model that answers."""

from support.hostile_folders import campaign


def test_spoilt_configurations():
    counted, bad, _ = campaign(range(4))
    assert not bad and counted["refused"] >= 2
