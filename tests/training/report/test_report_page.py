"""report.html: every point and every tensor is in it, every text is escaped, nothing is fetched."""

import json
import re
from html.parser import HTMLParser

import pytest

from hybridopt import HybridOptError
from hybridopt.training.report.page import write
from support.report_runs import EVIL, GIB, tensors, write_run

STEPS, EVALS = 40, 4


class Page(HTMLParser):
    """Elements of a page, which have to be closed in order."""

    ALONE = {"meta", "rect", "polyline", "polygon", "line"}

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.texts, self.data = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.ALONE:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in self.ALONE
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open[-1:] == ["script"]:
            self.data.append(text)
        elif self.open[-1:] != ["style"]:
            self.texts.append(text)

    def all(self, tag, look=None):
        return [a for t, a in self.found if t == tag and (look is None or look in (a.get("class") or "").split())]

    def told(self):
        """What the charts tell the pointer."""
        return [json.loads(text) for text in self.data if text.startswith("{")]

    def map(self):
        """What the map tells the pointer."""
        return next(json.loads(text) for text in self.data if text.startswith("["))


def points(lines):
    return sum(len(each["points"].split()) for each in lines)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("run"), STEPS, EVALS)
    path = write(folder)
    assert path == folder / "report.html"
    assert sorted(p.name for p in folder.iterdir()) == ["log.jsonl", "plan.json", "report.html", "run.yaml"]
    return Page(path.read_text())


def test_every_record_is_a_point(whole):
    assert points(whole.all("polyline", "rate")) == points(whole.all("polyline", "norm")) == STEPS
    assert points(whole.all("polyline", "train")) == 2 * STEPS  # loss, and the task's own number
    assert len(whole.all("i", "dot")) == points(whole.all("polyline", "eval")) == 2 * EVALS
    loss = whole.told()[0]
    assert [len(each["x"]) for each in loss["series"]] == [STEPS, EVALS]
    assert loss["series"][0]["y"][0] == pytest.approx(1 + 2 * 2.718281828 ** (-3 / STEPS) + 0.0841471, rel=1e-5)


def test_points_lie_where_their_values_are(whole):
    rates = [tuple(map(float, p.split(","))) for p in whole.all("polyline", "rate")[0]["points"].split()]
    assert rates[0][0] == 0 and rates[-1][0] == 1000
    assert all(later[1] > earlier[1] for earlier, later in zip(rates, rates[1:], strict=False))  # down, as the rate
    assert rates[-1][1] == 1000  # at 0


def test_every_tensor_is_a_cell_of_its_size(whole):
    cells, made = whole.all("rect"), tensors()
    assert len(cells) == len(made) == len(whole.map())
    areas = [float(c["width"]) * float(c["height"]) for c in cells if c["class"] == "t-split"]
    assert len(areas) == 4 and max(areas) / min(areas) < 1.1
    frozen = sum(float(c["width"]) * float(c["height"]) for c in cells if c["class"] == "t-frozen")
    share = sum(t["bytes"] for t in made if t["tag"] == "frozen") / sum(t["bytes"] for t in made)
    assert frozen / (1000 * 560) == pytest.approx(share, abs=0.1)  # names of layers take room


def test_the_plan_stands_beside_what_was_measured(whole):
    text = " ".join(whole.texts)
    assert "planned peak, 10.00 GiB" in text and "24.00 GiB" in text
    assert re.search(r"peak\s+10\.00 GiB\s+9\.00 GiB\s+90\.0%", text)
    assert "method.options.density 0.25" in text and "torch 2.13.0" in text and "0123abcd" in text
    assert "finished" in text and "not finished" not in text
    kinds = [p["class"] for p in whole.all("polygon")]
    assert kinds == ["k-weights", "k-quantization", "k-state", "k-gradients", "k-activations"]


@pytest.mark.parametrize(
    ("device", "planned", "limit", "drawn", "told"),
    [
        ("cuda", 10, 24, {"planned", "limit"}, ""),
        ("cuda", 10, 80, {"planned"}, "The memory of the device, 80.00 GiB, lies far above."),
        ("cpu", 10, 80, {"planned"}, "device, 80.00 GiB, lies far above."),  # tensors take 4.9 GiB
        ("cpu", 100, 24, set(), "The planned peak, 100.00 GiB, lies far above. The memory of the device"),
        ("cuda", None, None, set(), ""),
    ],
)
def test_lines_far_above_are_told_and_not_drawn(tmp_path, device, planned, limit, drawn, told):
    write_run(tmp_path, device=device)
    plan = json.loads((tmp_path / "plan.json").read_text())
    sizes = {"peak_bytes": planned, "gpu_bytes": limit}
    plan["planned"] |= {key: size and size * GIB for key, size in sizes.items()}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    page = Page(write(tmp_path).read_text())
    rules = page.all("line", "rule")
    assert {each["class"].split()[1] for each in rules} == drawn
    assert told in " ".join(page.texts) and ("far above" in " ".join(page.texts)) == bool(told)
    assert all(0 <= float(each["y1"]) <= 1000 for each in rules)
    tops = [float(p.split(",")[1]) for each in page.all("polygon") for p in each["points"].split()]
    assert min(tops) < 850  # the tensors are seen


def test_nothing_is_fetched(whole, tmp_path):
    text = write(write_run(tmp_path)).read_text()
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bfetch\b|XMLHttp|<link|<img|<iframe", text)
    assert all(not {"src", "href", "srcset"} & attributes.keys() for _, attributes in whole.found)


def test_texts_from_outside_are_no_html(tmp_path):
    text = write(write_run(tmp_path, evil=True)).read_text()
    page = Page(text)
    good = len(Page(write(write_run(tmp_path / "good")).read_text()).all("script"))
    assert text.count("<script") == text.count("</script") == len(page.all("script")) == good + 1  # of one chart more
    assert page.map()[-1][:3] == [EVIL] * 3 and [a["aria-label"] for a in page.all("svg")].count(EVIL) == 1
    assert f"{EVIL}: training report" in page.texts and page.texts.count(EVIL) >= 2  # the heading, and the table


def test_a_loss_that_is_no_number_is_a_gap_and_marked(tmp_path):
    page = Page(write(write_run(tmp_path, STEPS, 0, broken=(1, 10, 11, 40))).read_text())
    lines = [each for each in page.all("polyline", "train")][:2]
    assert [len(each["points"].split()) for each in lines] == [8, 28]
    assert len(page.all("i", "broken")) == 4


def test_on_a_cpu_the_process_is_not_held_against_the_plan(tmp_path):
    text = " ".join(Page(write(write_run(tmp_path, device="cpu")).read_text()).texts)
    assert "peak 10.00 GiB – –" in text and "resident set of the process – 9.00 GiB –" in text
    assert "gradients 256.00 MiB 256.00 MiB 100.0%" in text and "Peak of the process 9.00 GiB" in text


def test_a_point_alone_is_a_dot(tmp_path):
    page = Page(write(write_run(tmp_path, 3, 0, broken=(2,))).read_text())
    assert [each["class"] for each in page.all("i", "dot")] == ["dot train", "dot train"]


@pytest.mark.parametrize(
    ("changes", "there", "missing"),
    [
        ({"evals": 0}, "Loss", "Best evaluation"),
        ({"drop": ("lr",)}, "Gradient norm", "Learning rate"),
        ({"drop": ("grad_norm", "tokens_per_second", "tokens")}, "Learning rate", "Gradient norm"),
        ({"drop": ("weights_bytes",)}, "Map of the model", "Up to the largest"),
        ({"finished": False}, "not finished", "train_loss"),
        ({"steps": 0}, "no records of training yet", "Learning rate"),
        ({"steps": 1, "evals": 1}, "Loss", "nothing"),
        ({"device": "cpu"}, "The whole process took 9.00 GiB", "activations and temporaries"),
    ],
    ids=["no evals", "no rate", "no norm", "no bytes", "unfinished", "no steps", "one step", "cpu"],
)
def test_what_is_missing_is_left_out(tmp_path, changes, there, missing):
    page = Page(write(write_run(tmp_path, **changes)).read_text())
    text = " ".join(page.texts)
    assert there in text and missing not in text
    assert "nan" not in text.lower().split() and "None" not in text


@pytest.mark.parametrize("kept", [(), ("run.yaml",), ("plan.json",), ("log.jsonl",)])
def test_files_that_are_missing_are_left_out(tmp_path, kept):
    for file in write_run(tmp_path).iterdir():
        if file.name not in kept:
            file.unlink()
    page = Page(write(tmp_path).read_text())
    assert ("org/name" in page.texts) == (kept == ("run.yaml",))
    assert bool(page.all("rect")) == (kept == ("plan.json",))
    assert bool(page.all("polyline")) == (kept == ("log.jsonl",))


@pytest.mark.parametrize(
    ("name", "text"), [("run.yaml", "a: [1"), ("plan.json", "{"), ("log.jsonl", "{\n"), ("run.yaml", "- 1\n")]
)
def test_files_that_cannot_be_read_are_told(tmp_path, name, text):
    (write_run(tmp_path) / name).write_text(text)
    with pytest.raises(HybridOptError, match=name):
        write(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("bad", [[], "x", None, {"peak_bytes": "many"}, {"peak_bytes": None}, {"weights_bytes": True}])
def test_a_plan_of_another_shape_is_not_shown(tmp_path, bad):
    write_run(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps({"planned": bad, "measured": bad, "tensors": {}, "steps": "x"}))
    page = Page(write(tmp_path).read_text())
    assert "Loss" in page.texts and not page.all("rect")


def test_a_large_model_and_a_long_run_stay_small(tmp_path):
    path = write(write_run(tmp_path, steps=6000, layers=166))
    page = Page(path.read_text())
    assert len(page.all("rect")) == len(tensors(166)) > 1490
    assert points(page.all("polyline", "rate")) <= 2000
    assert path.stat().st_size < 10**6
