"""Versions, also where hybridopt is run from a folder and not installed."""

import tomllib
from importlib import metadata

import hybridopt
from benchmarks.shared.environment import environment
from hybridopt.cli.demo import result
from hybridopt.core import version
from hybridopt.training.running import versions
from support.paths import ROOT


def test_the_package_is_built_with_the_version_that_it_says():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["dynamic"] == ["version"] and "version" not in settings["project"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "hybridopt.core.version.__version__"}
    assert metadata.version("hybridopt") == hybridopt.__version__ == version.__version__


def test_what_is_not_installed_is_left_out_and_hybridopt_says_its_own(monkeypatch):
    there = metadata.version("torch")

    def only_torch(name):
        if name != "torch":
            raise metadata.PackageNotFoundError(name)
        return there

    monkeypatch.setattr(metadata, "version", only_torch)
    assert version.installed("hybridopt") is None and version.installed("torch") == there
    for told in (result.versions(), versions.versions()):
        assert set(told) == {"python", "hybridopt", "torch"} and told["hybridopt"] == hybridopt.__version__
    assert told.items() <= environment().items()  # of benchmarks, which are run so
