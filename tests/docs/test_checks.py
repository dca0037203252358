"""What the checks, the changelog and the code say of the same things agrees."""

import json
import re
import shlex

import yaml
from torch import nn

from hybridopt import Policy, Route, wrap
from hybridopt.model import checksums
from hybridopt.saving import manifest
from hybridopt.saving.configuration import configuration
from hybridopt.saving.replay import file as replay_file
from support.paths import ROOT

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


def test_hooks_are_the_commands_of_ci():
    text = (ROOT / ".ci" / "run").read_text().partition("\n# Commands")[2]
    lines = [line for line in text.splitlines()[1:] if not line.startswith("#")]
    commands = [part.strip() for line in lines for part in line.split("&&") if part.strip()]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == [c for c in commands if shlex.split(c)[0] != "pip"]
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in hooks)


def test_the_changelog_knows_the_version_of_every_saved_format():
    table = re.findall(r"^\| ([^|]+) \| [^|]+ \| `(\w+)` \| (\d+) \| [^|]+ \|$", CHANGELOG, re.MULTILINE)
    assert {(name, key): int(version) for name, key, version in table} == {
        ("configuration", "format"): configuration(wrap(nn.Linear(2, 2)).hybrid, set(), {})["format"],
        ("checksums of the base", "checksums"): checksums.VERSION,
        ("manifest", "format"): manifest.FORMAT,
        ("replay", "format"): replay_file.FORMAT,
        ("noise, its keys and random rounding", "noise"): replay_file.SPECIFICATION,
        ("policy", "format"): json.loads(Policy((Route(None),)).to_json())["format"],
    }


def test_the_noise_specification_has_the_version_of_the_file():
    text = (ROOT / "hybridopt" / "core" / "numerics" / "NOISE.md").read_text()
    assert f"specification, version {replay_file.SPECIFICATION}\n" in text
