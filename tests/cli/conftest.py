"""A small model and a folder with examples, for the commands that train."""

import pytest

from support.tiny_chat import save_tiny_chat, write_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_chat(tmp_path_factory.mktemp("tiny") / "model", layers=1)


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_rows(tmp_path / "chats.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path
