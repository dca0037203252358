"""A process that has not compiled anything yet."""

import pytest

from hybridopt.execution.cpp import builder, compiler


@pytest.fixture
def nothing_built(monkeypatch, tmp_path):
    """Nothing is known, and the cache is a folder of the test's own."""
    monkeypatch.setenv("HYBRIDOPT_KERNELS", str(tmp_path / "kernels"))
    for name in ("_failed", "_found", "_told", "refused"):
        monkeypatch.setattr(builder, name, set())
    monkeypatch.setattr(builder, "_built", {})
    monkeypatch.setattr(builder, "_missing", [])
    monkeypatch.setattr(compiler, "wide", lambda: ())
    return tmp_path
