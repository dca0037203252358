"""`hybridopt chat` answers as the trained model does, from a pipe; the model is tiny and says random letters."""

import json
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import hybridopt
from hybridopt import HybridOptError
from hybridopt.cli.main import app
from hybridopt.training.chat.conversation import Conversation
from hybridopt.training.output.folder import save
from support.saved import train
from support.tiny_chat import save_tiny_chat, tokenizer

LORA = {"r": 2, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}


def chat(folder, text, *options):
    arguments = ["chat", str(folder), "--max-new-tokens", "9", "--temperature", "0", *map(str, options)]
    result = CliRunner().invoke(app, arguments, input=text)
    if isinstance(result.exception, HybridOptError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def shown(text):
    """What a terminal is given of a text: control characters by their numbers, but for line ends and tabs."""
    command = {chr(n) for n in (*range(32), *range(127, 160))} - set("\n\t")
    return "".join(c.encode("unicode_escape").decode() if c in command else c for c in text)


def answers(model, *asked):
    """What a model is shown to say to messages that follow each other."""
    messages = []
    for text in asked:
        messages.append({"role": "user", "content": text})
        found = tokenizer().apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**found, max_new_tokens=9, do_sample=False)
        said = tokenizer().decode(out[0][found["input_ids"].shape[1] :], skip_special_tokens=True)
        messages.append({"role": "assistant", "content": said})
    return [shown(each["content"]) for each in messages[1::2]]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_chat(tmp_path_factory.mktemp("chat") / "base")


def trained(base, lora=None, steps=1, **options):
    config = None if lora is None else LoraConfig(**lora)
    model = hybridopt.wrap(AutoModelForCausalLM.from_pretrained(base), peft_config=config, **options)
    train(model, steps)
    return model.eval()


def test_the_conversation_is_kept_until_it_is_reset(base):
    model = AutoModelForCausalLM.from_pretrained(base)
    kept, fresh = answers(model, "one", "two"), answers(model, "two")
    assert kept[1] != fresh[0]
    assert chat(base, "one\n\ntwo\n") == f"{kept[0]}\n{kept[1]}\n"
    assert chat(base, "one\n/reset\ntwo\n/exit\nthree\n") == f"{kept[0]}\n{fresh[0]}\n"


@pytest.mark.parametrize(
    ("lora", "options"),
    [(None, {}), (LORA, {}), (LORA, {"quantization": "nf4"}), (None, {"quantization": "int8-trainable"})],
)
def test_what_was_trained_answers(lora, options, base, tmp_path):
    model = trained(base, lora, **options)
    save(model, tmp_path, tokenizer(), {"base_model": str(base)})
    assert chat(tmp_path, "hello\n") == answers(model, "hello")[0] + "\n" != chat(base, "hello\n")


def test_changes_beside_adapters_and_modules_in_full(base, tmp_path):
    model = hybridopt.wrap(
        AutoModelForCausalLM.from_pretrained(base),
        peft_config=LoraConfig(**LORA, modules_to_save=["v_proj"]),
        quantization="nf4",
    )
    model.base_model.model.model.norm.weight.requires_grad_(True)
    train(model, 1)
    model.hybrid.save_pretrained(tmp_path)
    expected = answers(model.eval(), "hello")[0] + "\n"
    assert chat(tmp_path, "hello\n", "--base", base) == expected
    with pytest.raises(HybridOptError, match="--quantization=fp4.*leave --quantization out.*hybridopt merge"):
        chat(tmp_path, "hello\n", "--base", base, "--quantization", "fp4")


def test_adapters_go_onto_a_base_in_another_form(base, tmp_path):
    model = trained(base, LORA, quantization="nf4")
    save(model, tmp_path, None, {"base_model": str(base)})
    quantized = hybridopt.load(base, quantization="int8")
    expected = hybridopt.model.adapters.usual_library().load(quantized, tmp_path, ["default"], is_trainable=False)
    assert chat(tmp_path, "hello\n", "--quantization", "int8") == answers(expected.eval(), "hello")[0] + "\n"


def test_adapters_of_peft_and_quantized_model_folders(base, tmp_path):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**LORA, task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path)
    assert chat(tmp_path, "hello\n") == answers(model.eval(), "hello")[0] + "\n"
    assert (
        chat(base, "hello\n", "--quantization", "nf4")
        == answers(hybridopt.load(base, quantization="nf4"), "hello")[0] + "\n"
    )


def test_without_a_template_each_line_is_gone_on_with(tmp_path):
    folder = save_tiny_chat(tmp_path)
    (folder / "chat_template.jinja").unlink()
    found = tokenizer()("one", return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(folder)
    out = model.generate(input_ids=found["input_ids"], max_new_tokens=9, do_sample=False)
    said = shown(tokenizer().decode(out[0][found["input_ids"].shape[1] :], skip_special_tokens=True))
    assert chat(folder, "one\none\n") == f"{said}\n{said}\n"


def test_a_conversation_that_is_too_long_is_said_and_goes_on(base):
    model, said = AutoModelForCausalLM.from_pretrained(base), []
    talk = Conversation(model, tokenizer(), 9, 0.0, said.append)
    with pytest.raises(HybridOptError, match="room for 256; /reset"):
        talk.ask("x" * 300)
    assert talk.ask("one") == "".join(said) and shown("".join(said)) == answers(model, "one")[0]
    with pytest.raises(HybridOptError, match="room for 256"):
        chat(base, "x" * 300)
    torch.manual_seed(0)
    assert len({Conversation(model, tokenizer(), 9, 5.0, said.append).ask("one") for _ in range(4)}) > 1


def test_what_gives_no_text_is_refused(base, tmp_path):
    scores = save_tiny_chat(tmp_path / "scores", classes=2)
    with pytest.raises(HybridOptError, match="LlamaForSequenceClassification, which gives scores.*pipeline"):
        chat(scores, "hello\n")
    (tmp_path / "adapter").mkdir()
    settings = {"task_type": "SEQ_CLS", "base_model_name_or_path": str(base)}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(HybridOptError, match="adapters for SEQ_CLS.*scores"):
        chat(tmp_path / "adapter", "hello\n")
    (tmp_path / "empty").mkdir()
    for folder, options, text in (
        ("empty", (), "neither a model"),
        ("scores", ("--base", base), "holds a whole model"),
        ("adapter", ("--base", tmp_path / "nowhere"), "--base=.*no such folder"),
    ):
        with pytest.raises(HybridOptError, match=text):
            chat(tmp_path / folder, "hello\n", *options)
    with pytest.raises(HybridOptError, match="no command /rest; there are /reset and /exit"):
        chat(base, "/rest\n")


def test_a_typo_is_answered_at_once(tmp_path):
    code = (
        "import sys\nfrom hybridopt.cli.main import app\nfrom hybridopt import HybridOptError\n"
        f"try: app(['chat', {str(tmp_path / 'nowhere')!r}])\n"
        "except HybridOptError as error: print(error, 'transformers' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "there is nothing at" in done.stdout and "snapshot_download(" in done.stdout
    assert done.stdout.strip().endswith("False False")
