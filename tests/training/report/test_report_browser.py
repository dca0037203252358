"""report.html in a real browser: it throws nothing, fits wide and narrow windows, and answers the pointer."""

import re

import pytest

from hybridopt.training.report.page import write
from support.browsers import WITHOUT, browser, look
from support.report_runs import EVIL, tensors, write_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(browser() is None, reason=WITHOUT)]

WIDTHS = [1280, 768, 390, 320]
STEPS, EVALS = 80, 4
MISSING = [{"steps": 0}, {"steps": 1, "evals": 0}, {"drop": ("weights_bytes", "lr")}, {"device": "cpu"}]
PROBE = """(() => {
  const all = (what) => [...document.querySelectorAll(what)];
  const event = (x, y) => new PointerEvent('pointermove', { bubbles: true, clientX: x, clientY: y });
  const point = (e, x, y) => e.dispatchEvent(event(x, y));
  const text = (e) => e.hidden ? null : e.textContent;
  const lines = (look) => all(`.first .line.${look}`).reduce((n, e) => n + e.points.length, 0);
  const area = document.querySelector('.chart .area');
  if (!area) return null;
  const box = area.getBoundingClientRect();
  point(area, box.left + box.width, box.top + 20);
  const chart = text(area.querySelector('.tip')), tip = area.querySelector('.tip').getBoundingClientRect();
  area.dispatchEvent(new PointerEvent('pointerleave'));
  const tiles = document.querySelector('.tiles'), cell = all('rect').at(-1), at = cell.getBoundingClientRect();
  point(cell, at.left + at.width / 2, at.top + at.height / 2);
  const map = text(tiles.querySelector('.tip'));
  tiles.dispatchEvent(new PointerEvent('pointerleave'));
  const left = all('rect.on').length + !tiles.querySelector('.tip').hidden;
  const small = all('.tiles rect').filter((e) => e.getBoundingClientRect().width > 0).length;
  return { chart, inside: tip.left >= 0 && tip.right <= innerWidth, hidden: area.querySelector('.tip').hidden,
           map, left, cells: all('rect').length, small,
           raw: lines('raw'), smooth: lines('train'), eval: lines('eval'), rate: lines('rate'),
           dots: all('.first .dot').length, height: Math.round(area.clientHeight),
           labels: all('.chart .x, .chart .y').filter((e) => e.getBoundingClientRect().left < 0).length,
           scripts: all('script').length, title: document.title,
           color: getComputedStyle(document.body).backgroundColor };
})()"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the browser says of all pages, which it loads at once: those of WIDTHS, of MISSING, and a broken one."""
    folder = tmp_path_factory.mktemp("seen")
    text = write(write_run(folder / "run", STEPS, EVALS, evil=True)).read_text()
    frames = [(text, width) for width in WIDTHS]
    frames += [(write(write_run(folder / f"{n}", **changes)).read_text(), 390) for n, changes in enumerate(MISSING)]
    frames.append(
        (text.replace("<main>", '<main><p style="width:900px">wide</p><script>nothing.there()</script>'), 390)
    )
    return look(folder, frames, PROBE)


@pytest.fixture
def seen(told):
    return dict(zip(WIDTHS, told, strict=False))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_the_window_and_throws_nothing(seen, width):
    found = seen[width]
    assert found["thrown"] == []
    assert found["width"] == width and found["scroll"] <= width and found["wide"] == []
    assert found["result"]["labels"] == 0 and found["result"]["height"] > 150


@pytest.mark.parametrize("width", WIDTHS)
def test_every_point_and_every_tensor_is_there(seen, width):
    found = seen[width]["result"]
    assert (found["raw"], found["smooth"], found["rate"]) == (STEPS, STEPS, STEPS)
    assert found["eval"] == found["dots"] == EVALS
    assert found["cells"] == found["small"] == len(tensors(evil=True))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_pointer_is_told_of_steps_and_tensors(seen, width):
    found = seen[width]["result"]
    assert re.fullmatch(rf"step {STEPS}training: [\d.]+training, smoothed: [\d.]+evaluation: 1\.5", found["chart"])
    assert found["inside"] and found["hidden"] and found["left"] == 0
    assert found["map"].startswith(EVIL) and found["map"].endswith("9 B")
    assert found["title"].startswith(EVIL)


def test_a_page_that_is_broken_is_seen(told):
    """The browser's word counts: a page that is too wide, and throws, is told as such."""
    assert told[-1]["wide"] and told[-1]["scroll"] > 390 and "nothing is not defined" in told[-1]["thrown"][0]


@pytest.mark.parametrize("number", range(len(MISSING)))
def test_pages_without_much_throw_nothing(told, number):
    found = told[len(WIDTHS) + number]
    assert (found["thrown"], found["wide"]) == ([], []), MISSING[number]
