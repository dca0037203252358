"""Strict JSON: what we write we read back, and nothing a stranger writes gets further than HybridOptError."""

import json
import math
import os
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridopt.core.errors import HybridOptError
from hybridopt.core.files import plain_json

quick = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
TREES = st.recursive(LEAVES, lambda each: st.lists(each, max_size=4) | st.dictionaries(TEXTS, each, max_size=4))
OBJECTS = st.dictionaries(TEXTS, TREES, max_size=5)


def same(one, other):
    """Equality that tells 1 from 1.0 from True, and -0.0 from 0.0."""
    return repr(one) == repr(other)


@quick
@given(OBJECTS)
def test_round_trip(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "round.json"
    plain_json.write(path, data)
    assert same(plain_json.read(path), data)


@quick
@given(st.binary(max_size=60) | st.text(max_size=60))
def test_junk_is_refused_or_read(text):
    try:
        assert type(plain_json.parse(text, "junk")) is dict
    except HybridOptError as error:
        assert "junk" in str(error)


@quick
@given(OBJECTS, st.data())
def test_broken_json_is_refused_or_read(data, draw):
    text = json.dumps(data, ensure_ascii=draw.draw(st.booleans()))
    place = draw.draw(st.integers(0, len(text)))
    piece = draw.draw(st.sampled_from(["", '"', "{", "}", "[", "]", ",", "\\", "\\ud800", "NaN", "1e999", "-", "\0"]))
    try:
        assert type(plain_json.parse(text[:place] + piece + text[place + 1 :], "junk")) is dict
    except HybridOptError as error:
        assert "junk" in str(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": NaN}', "'a' is nan"),
        ('{"a": {"b": [0, -Infinity]}}', "'a': 'b'[1] is -inf"),
        ('{"a": 1e999}', "'a' is inf"),
        ('{"a": 18446744073709551616}', "beyond 64 bits"),
        ('{"a": -9223372036854775809}', "beyond 64 bits"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"a": 1, "b": {"lr": 1, "lr": 2}}', "'lr' twice"),
        ('{"a": 1, "a": 1}', "'a' twice"),
        ('{"\\ud800": 1}', "surrogate"),
        ('{"a": "\\udc00x"}', "surrogate"),
        ("[1]", "at the top, not an array"),
        ("true", "at the top, not true or false"),
        ("", "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        ('{"a": 1} {"a": 1}', "not valid JSON"),
        ('\ufeff{"a": 1}', "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        ('{"a": 1}'.encode("utf-16"), "not valid JSON"),
        ('{"a": ' * 65 + "1" + "}" * 65, "deeper than 64"),
        ("[" * 1_000_000, "deeper than 64"),
        ('{"' + "a" * (4 * 2**20) + '": 1}', "larger than 4194304 bytes"),
    ],
    ids=range(21),
)
def test_hostile_text(text, words):
    with pytest.raises(HybridOptError, match="the policy") as caught:
        plain_json.parse(text, "the policy")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_depth_does_not_lean_on_the_recursion_limit():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)
    try:
        with pytest.raises(HybridOptError, match="deeper than 64"):
            plain_json.parse('{"a": ' + "[" * 500_000 + "]" * 500_000 + "}", "x")
    finally:
        sys.setrecursionlimit(limit)


def test_deepest_allowed_and_brackets_in_strings():
    text = '{"a": ' * 64 + "1" + "}" * 64
    assert plain_json.parse(text, "x")["a"]
    data = {"a": '"' + "[" * 100, "b": ["}" * 100, "\\", "{" * 100]}
    assert plain_json.parse(json.dumps(data), "x") == data


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "['lr'] is nan"),
        (-math.inf, "is -inf"),
        (2**64, "beyond 64 bits"),
        ({1: 2}, "must be a string, not a whole number"),
        ({None: 2}, "must be a string, not null"),
        ({1, 2}, "a set, which JSON has no word for"),
        (b"x", "a bytes, which"),
        (object, "a type, which"),
        (1j, "a complex, which"),
        ("\ud800", "surrogate"),
    ],
)
def test_write_refuses_before_it_touches_the_file(tmp_path, value, words):
    path = tmp_path / "config.json"
    plain_json.write(path, {"old": True})
    with pytest.raises(HybridOptError) as caught:
        plain_json.write(path, {"a": [1, value]})
    assert str(path) in str(caught.value)
    assert words.replace("['lr']", "'a'[1]") in str(caught.value)
    assert plain_json.read(path) == {"old": True}


def test_write_refuses_what_holds_itself_and_what_is_too_large(tmp_path):
    loop = []
    loop.append(loop)
    with pytest.raises(HybridOptError, match="deeper than 64 levels, or holding itself"):
        plain_json.write(tmp_path / "x.json", {"a": loop})
    with pytest.raises(HybridOptError, match="larger than 4194304 bytes"):
        plain_json.write(tmp_path / "x.json", {"a": "x" * 2**22})
    with pytest.raises(HybridOptError, match="not an array"):
        plain_json.write(tmp_path / "x.json", [1])
    assert not os.listdir(tmp_path)


def test_tuples_become_lists(tmp_path):
    plain_json.write(tmp_path / "x.json", {"a": (1, (2.5,))})
    assert plain_json.read(tmp_path / "x.json") == {"a": [1, [2.5]]}


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in [tmp_path, tmp_path / "pipe", tmp_path / "dangling", "/dev/zero", "a\0b", tmp_path / ("x" * 300)]:
        with pytest.raises(HybridOptError, match="the policy"):
            plain_json.read(path, "the policy")
    with pytest.raises(HybridOptError, match="cannot be written"):
        plain_json.write(tmp_path / "none" / "x.json", {})


def test_take():
    data = {"flag": True, "gap": 200, "lr": 1, "rate": 0.5, "name": None, "routes": [1]}
    assert plain_json.take(data, "gap", int, "policy") == 200
    assert same(plain_json.take(data, "lr", float, "policy"), 1.0)
    assert same(plain_json.take(data, "lr", int | float, "policy"), 1)
    assert plain_json.take(data, "flag", bool, "policy") is True
    assert plain_json.take(data, "name", str | None, "policy", "default") is None
    assert plain_json.take(data, "name", (str, type(None)), "policy") is None
    assert plain_json.take(data, "missing", int, "policy", default=None) is None


@pytest.mark.parametrize(
    ("key", "kind", "words"),
    [
        ("flag", int, "policy: 'flag' must be a whole number, not true or false (True)"),
        ("flag", float, "'flag' must be a number, not true or false"),
        ("rate", int, "'rate' must be a whole number, not a number (0.5)"),
        ("name", str, "'name' must be a string, not null"),
        ("gap", str | None, "'gap' must be a string or null, not a whole number (200)"),
        ("gap", (dict, list), "'gap' must be an object or an array, not"),
        ("absent", int, "policy: the key 'absent' is missing"),
    ],
)
def test_take_refuses(key, kind, words):
    with pytest.raises(HybridOptError) as caught:
        plain_json.take({"flag": True, "rate": 0.5, "name": None, "gap": 200}, key, kind, "policy")
    assert words in str(caught.value)


def test_only():
    plain_json.only({"a": 1}, ("a", "b"), "policy")
    with pytest.raises(HybridOptError, match=r"policy: unknown key 'densty, x'; did you mean 'density'\?.*gap"):
        plain_json.only({"x": 1, "gap": 1, "densty": 2}, ("gap", "density"), "policy")
