"""A real browser without a window, which loads a page of ours and tells what it has made of it."""

import json
import re
import shutil
import subprocess
from html import escape, unescape

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions")
WITHOUT = "no Chromium on PATH: apt-get install chromium"

# Every frame is a page of a width of its own. What it throws is noted before its own scripts run.
NOTES = "window.thrown = []; addEventListener('error', (e) => thrown.push(String(e.message)), true);"
MEASURE = """
addEventListener('load', () => setTimeout(() => {
  const told = [...document.querySelectorAll('iframe')].map((frame) => {
    const view = frame.contentWindow, page = frame.contentDocument, width = page.documentElement.clientWidth;
    const inBox = (e) => e.closest('.scroll') && !e.matches('.scroll');
    const over = (e) => !inBox(e) && e.getBoundingClientRect().right > width + 1;
    const wide = [...page.body.querySelectorAll('*')].filter(over);
    const result = view.probe();
    return { thrown: view.thrown, width, scroll: page.documentElement.scrollWidth,
             wide: wide.map((e) => `${e.tagName}.${e.getAttribute('class')}`), result };
  });
  const out = document.createElement('pre');
  out.id = 'told';
  out.textContent = JSON.stringify(told);
  document.body.replaceChildren(out);
}, 0));
"""


def browser():
    """The path of a browser; None without any."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def look(folder, frames, probe="null"):
    """What a browser says of pages: what they throw, their widths in pixels, and what `probe` returns there.

    Args:
        folder: for files of the browser's.
        frames: texts of pages, each with the width of its window.
        probe: a JavaScript expression, whose value is plain data.
    """
    path = folder / "frames.html"
    inside = "".join(_frame(text, width, probe) for text, width in frames)
    path.write_text(f'<!doctype html><meta charset="utf-8"><script>{MEASURE}</script><body>{inside}')
    args = [browser(), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([*args, path.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(unescape(found[1]))


def _frame(text, width, probe):
    head, marker, rest = text.partition("<title>")
    assert marker
    script = f"<script>{NOTES} window.probe = () => ({probe});</script>"
    style = f"border:0;width:{width}px;height:800px"
    return f'<iframe style="{style}" srcdoc="{escape(head + script + marker + rest)}"></iframe>'
