"""Hooks of the site: pages from outside of docs/, links between all pages, packages as they are installed."""

import posixpath
import re
import shutil
import tempfile
from pathlib import Path

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
OUTSIDE = ("*.md", "benchmarks/*/*.md", "benchmarks/results/*.png", "hybridopt/**/*.md", "examples/*.py")
INDEX = {"README.md": "index.md"}
_packages = tempfile.mkdtemp(prefix="hybridopt-docs-")


def place(path):
    """Return where a file of the repository lies in the site."""
    path = path.removeprefix("docs/")
    return INDEX.get(path, path + ".md" if path.endswith(".py") else path)


@event_priority(100)
def on_config(config):
    """Give mkdocstrings one folder with the package and its integrations, as an installation has them."""
    package = Path(_packages) / "hybridopt"
    shutil.copytree(ROOT / "hybridopt", package, dirs_exist_ok=True)
    shutil.copytree(ROOT / "integrations", package / "integrations", dirs_exist_ok=True)
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [_packages]
    return config


def on_files(files, config):
    """Add the pages from outside of docs/, and the help of the commands."""
    sources = {}
    for path in (path for pattern in OUTSIDE for path in sorted(ROOT.glob(pattern))):
        name = str(path.relative_to(ROOT))
        content = program(path) if path.suffix == ".py" else path.read_bytes()
        files.append(File.generated(config, place(name), content=content))
        sources[place(name)] = name
    files.append(File.generated(config, "reference/commands.md", content=commands()))
    config.extra["sources"] = sources
    return files


def program(path):
    """Return a page that shows a program."""
    return f"# {path.relative_to(ROOT)}\n\n```python\n{path.read_text()}```\n"


def commands():
    """Return the help of `hybridopt` and of its commands as Markdown."""
    import typer
    from typer.cli import get_docs_for_click

    from hybridopt.cli.main import app

    command = typer.main.get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command), name="hybridopt", title="Commands")


def every(match):
    """Return directives for all parts of a kind, or all policies, without what their contract describes."""
    from hybridopt.core.registry import find, names

    kind, options = match[1], "members: false, heading_level: 3"
    found = ((name, find(kind, name)) for name in names(kind))
    return "\n\n".join(
        f"::: {part.__module__}.{part.__name__}\n    options: {{ {options}, heading: {name}, toc_label: {name} }}"
        for name, part in found
    )


def on_page_markdown(markdown, page, config, files):
    """Turn links between files of the repository into links between pages of the site."""
    here = page.file.src_uri
    page.meta |= {"hide": ["navigation"]} if here == "index.md" else {}
    markdown = re.sub(r"<!-- every (\w+) -->", every, markdown)
    source = config.extra["sources"].get(here, f"docs/{here}")

    def link(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        return f"]({posixpath.relpath(place(target), posixpath.dirname(here) or '.')}{match[2] or ''})"

    return re.sub(r"\]\((?!http|#)([^)#\s]+)(#[^)]*)?\)", link, markdown)


def on_post_build(config):
    """Remove the copy of the packages."""
    shutil.rmtree(_packages, ignore_errors=True)
