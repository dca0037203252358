"""The tokenizer of a run has padding and, for chats, a template that writes them."""

import json
import shutil

import pytest
from transformers import LlamaConfig

from hybridopt.core.errors import HybridOptError
from hybridopt.training.config.run import Data
from hybridopt.training.data.template import check_chats, padding_told, tokenizer_for
from support.data_files import examples, write_jsonl

END, OWN = "</s>", "<|pad|>"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
ASK, SAY = {"role": "user", "content": "a?"}, {"role": "assistant", "content": "b!"}
SYSTEM = {"role": "system", "content": "s"}


def save_tokenizer(folder, special=(END,), **named):
    """Write a tokenizer of single bytes into a folder, with these special tokens."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens([AddedToken(word, special=True) for word in special])
    PreTrainedTokenizerFast(tokenizer_object=made, **named).save_pretrained(folder)
    LlamaConfig(vocab_size=300, max_position_embeddings=64).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("model"), eos_token=END, chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("plain"), eos_token=END)


def said(call, *arguments, **named):
    with pytest.raises(HybridOptError) as caught:
        call(*arguments, **named)
    return str(caught.value)


def test_without_padding_the_end_is_taken(model):
    tokenizer = tokenizer_for(model, Data(), True)
    assert tokenizer.pad_token == tokenizer.eos_token == END
    assert padding_told(tokenizer)[0].startswith(f"padding is the end of text ({END})")
    assert len(tokenizer) == 257  # no token was added, for which the model would have no row


def test_a_special_token_of_its_own_is_better_padding(tmp_path):
    tokenizer = tokenizer_for(save_tokenizer(tmp_path, (END, OWN, "[PAD]"), eos_token=END), Data(), False)
    assert tokenizer.pad_token == OWN and len(tokenizer) == 259 and padding_told(tokenizer) == ()


def test_padding_that_is_there_stays(tmp_path):
    tokenizer = tokenizer_for(
        save_tokenizer(tmp_path, (END, OWN, "<x>"), eos_token=END, pad_token="<x>"), Data(), False
    )
    assert tokenizer.pad_token == "<x>"


def test_without_an_end_only_classifiers_train(tmp_path):
    folder = save_tokenizer(tmp_path, (OWN,))
    assert 'has no end of text (eos_token); set "eos_token"' in said(tokenizer_for, folder, Data(), False)
    assert tokenizer_for(folder, Data(), False, needs_end=False).pad_token == OWN
    folder = save_tokenizer(tmp_path / "none", ())
    text = said(tokenizer_for, folder, Data(), False, needs_end=False)
    assert "the tokenizer has no padding (pad_token), nor an end of text" in text


def test_chats_need_a_template_and_text_does_not(plain):
    assert tokenizer_for(plain, Data(), False).chat_template is None
    assert "has no chat template, which examples of messages need; --set data.template=chat.jinja" in said(
        tokenizer_for, plain, Data(), True
    )


def test_the_template_of_a_file_is_taken(plain, model, tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text("{% for m in messages %}<{{ m.content }}>{% generation %}{% endgeneration %}{% endfor %}")
    for folder in (plain, model):
        tokenizer = tokenizer_for(folder, Data(template=str(file)), True)
        assert tokenizer.apply_chat_template([ASK, SAY], tokenize=False) == "<a?><b!>"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{% for m in messages %}\n{% if %}", ":2: Expected an expression"),
        ("{% for m in messages %}\n", ":1: Unexpected end of template"),
        ("Answer the question.", " writes no messages"),
        (b"\xff", " is not UTF-8"),
        (None, " cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_template_is_refused(plain, tmp_path, text, error):
    file = tmp_path / "chat.jinja"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert f"data.template: {file}{error}" in said(tokenizer_for, plain, Data(template=str(file)), True)


def test_a_chat_that_the_template_refuses_is_told_by_line(model, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": chat} for chat in ([ASK, SAY], [SYSTEM, ASK, SAY])])
    assert said(check_chats, tokenizer_for(model, Data(), True), examples(path)) == (
        f"{path}:2: the chat template cannot write this chat (system, user, assistant): no system here"
    )


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [SYSTEM, ASK], "completion": [SAY]},
        {"prompt": [SYSTEM, ASK]},
        {"prompt": [SYSTEM, ASK], "chosen": [SAY], "rejected": [{**SAY, "content": "c"}]},
        {"chosen": [SYSTEM, ASK, SAY], "rejected": [SYSTEM, ASK, {**SAY, "content": "c"}]},
    ],
    ids=lambda row: " ".join(row),
)
def test_chats_of_every_format_are_tried(model, tmp_path, row):
    path, tokenizer = tmp_path / "a.jsonl", tokenizer_for(model, Data(), True)
    assert f"{path}:1: the chat template cannot write this chat (system" in said(
        check_chats, tokenizer, examples(write_jsonl(path, [row]))
    )
    good = {name: [turn for turn in turns if turn != SYSTEM] for name, turns in row.items()}
    good |= {"rejected": [*good["rejected"][:-1], {**SAY, "content": "d"}]} if "rejected" in good else {}
    check_chats(tokenizer, examples(write_jsonl(path, [good])))


def test_chats_of_the_evaluation_are_tried(model, tmp_path):
    train = write_jsonl(tmp_path / "a.jsonl", [{"messages": [ASK, SAY]}])
    other = write_jsonl(tmp_path / "b.jsonl", [{"messages": [SYSTEM, ASK, SAY]}])
    text = said(check_chats, tokenizer_for(model, Data(), True), examples(train, eval=str(other)))
    assert text.startswith(f"{other}:1: the chat template cannot write")


CALLS = [{"type": "function", "function": {"name": "f", "arguments": {}}}]


@pytest.mark.parametrize("message", [{"content": None}, {}], ids=["null", "missing"])
@pytest.mark.parametrize(
    ("written", "says"),
    [
        (
            "'<' + m.content + '>'",
            r"cannot write this chat \(user, assistant, assistant\): .*; write \"content\": \"\"",
        ),
        ("m.content | trim | upper | string if m.content is string else m.content.upper()", 'write "content": ""'),
        ("m.content or ''", None),
    ],
)
def test_a_template_that_cannot_write_calls_alone_says_what_to_write_instead(written, says, message, plain, tmp_path):
    tokenizer = tokenizer_for(plain, Data(), False)
    tokenizer.chat_template = f"{{% for m in messages %}}{{{{ {written} }}}}{{{{ m.tool_calls or '' }}}}{{% endfor %}}"
    chat = [ASK, {"role": "assistant", **message, "tool_calls": CALLS}, SAY]
    made = examples(write_jsonl(tmp_path / "calls.jsonl", [{"messages": chat}]))
    if says is None:
        return check_chats(tokenizer, made)
    with pytest.raises(HybridOptError, match=f"calls.jsonl:1: .*{says}"):
        check_chats(tokenizer, made)


class Plain:
    """Writes chats as versions of transformers do that pass null on to templates."""

    def apply_chat_template(self, chat, tokenize, **settings):
        return " ".join(f"{turn.get('content')} {turn.get('tool_calls', '')}" for turn in chat)


def test_a_template_that_writes_none_for_null_is_refused(tmp_path):
    chats = [[ASK, {"role": "assistant", "content": content, "tool_calls": CALLS}, SAY] for content in ("None", None)]
    paths = [write_jsonl(tmp_path / f"{n}.jsonl", [{"messages": chat}]) for n, chat in enumerate(chats)]
    check_chats(Plain(), examples(paths[0]))  # it is what is said
    says = "1.jsonl:1: .*writes 'None' for a message without content; write " + '"content": ""'
    with pytest.raises(HybridOptError, match=says):
        check_chats(Plain(), examples(paths[1]))


WRITES = "{% for m in messages %}{{ m.content or '' }}{{ m.tool_calls or '' }}{% endfor %}"


@pytest.mark.parametrize("content", [None, "", "I call it."])
@pytest.mark.parametrize(
    ("template", "dropped"), [("{{ messages[0].content }}{{ messages[-1].content or '' }}", True), (WRITES, False)]
)
def test_a_template_that_leaves_out_calls_of_tools_is_refused(template, dropped, content, plain, tmp_path):
    (tmp_path / "chat.jinja").write_text(template)
    tokenizer = tokenizer_for(plain, Data(template=str(tmp_path / "chat.jinja")), True)
    turn = {"role": "assistant", "content": content, "tool_calls": CALLS}
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": [ASK, turn]}])
    if dropped:
        assert said(check_chats, tokenizer, examples(path)).startswith(
            f"{path}:1: the chat template leaves out tool_calls"
        )
    else:
        check_chats(tokenizer, examples(path))


def test_a_template_that_leaves_out_the_answer_is_refused(plain, tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text("{{ messages[0].content }}")
    tokenizer = tokenizer_for(plain, Data(template=str(file)), True)
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": [ASK, SAY]}])
    assert said(check_chats, tokenizer, examples(path)) == (
        f"{path}:1: the chat template leaves out the last message, 'b!'"
    )


def test_a_folder_without_tokenizer_is_refused(tmp_path, plain):
    shutil.copy(f"{plain}/config.json", tmp_path)
    assert "the folder has no tokenizer that can be read; copy tokenizer.json" in said(
        tokenizer_for, str(tmp_path), Data(), False
    )
    (tmp_path / "tokenizer.json").write_text("{")
    assert "the folder has no tokenizer that can be read" in said(tokenizer_for, str(tmp_path), Data(), False)


def test_without_network_it_is_told_what_to_do():
    text = said(tokenizer_for, "org/nothing", Data(), False)
    assert text.startswith(
        "model='org/nothing': there is no such folder, and its tokenizer is not to be had from the hub"
    )


def test_the_network_is_asked_last_and_never_for_a_folder(tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    asked = []

    def refuse(name, *, local_files_only, **_):
        asked.append(local_files_only)
        raise OSError("not there")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", refuse)
    said(tokenizer_for, "org/nothing", Data(), False)
    assert asked == [True, False]
    said(tokenizer_for, str(tmp_path), Data(), False)
    assert asked == [True, False, True]


def test_code_of_a_tokenizer_is_not_run(tmp_path, plain):
    shutil.copytree(plain, tmp_path / "m")
    file = tmp_path / "m" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    file.write_text(json.dumps(settings))
    (tmp_path / "m" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    try:
        tokenizer_for(str(tmp_path / "m"), Data(), False)
    except HybridOptError:
        pass
    assert not (tmp_path / "ran").exists()
