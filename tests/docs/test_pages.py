"""Links of all pages lead somewhere, and their tables are those of the benchmarks and of the code."""

import re

import pytest
import yaml

from benchmarks.finetune import pages as finetune
from benchmarks.finetune.search import records_at as finetune_records
from benchmarks.fit_70b import table as fit_70b
from benchmarks.fits import table as fits
from benchmarks.pretrain import table as pretrain
from benchmarks.shared.places import RESULTS
from hybridopt.core.registry import names
from hybridopt.planning import Estimator, Request
from hybridopt.planning.subject.source import subject_of
from hybridopt.planning.ways.ways import VARIANTS, WAYS
from support.pages import PAGES
from support.paths import ROOT

DOCS = ROOT / "docs"
MEASURED = (DOCS / "benchmarks.md").read_text()
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def anchors(page):
    """What links to a page may name: its headings, as GitHub and the site spell them."""
    titles = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", CODE.sub("", page.read_text())):
        file = page.parent / target if target else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


@pytest.mark.parametrize("page", sorted((ROOT / "hybridopt").rglob("README.md")), ids=lambda page: page.parent.name)
def test_readmes_of_rooms_stay_short(page):
    assert len(page.read_text().splitlines()) <= 20


def test_every_page_is_in_the_navigation():
    listed = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    examples = {f"examples/{path.name}.md" for path in (ROOT / "examples").glob("*.py")}
    assert set(_leaves(listed)) >= {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} | examples


def _leaves(node):
    if isinstance(node, str):
        return [node]
    return [leaf for child in (node.values() if isinstance(node, dict) else node) for leaf in _leaves(child)]


def test_the_policies_of_the_table_are_those_there_are():
    found = re.findall(r"^\| `(\w+)` \| .* \| .* \|$", (DOCS / "policies.md").read_text(), re.MULTILINE)
    assert tuple(sorted(found)) == names("policies")


def rows(file, columns):
    """Cells of the rows of a benchmark's tables that have so many columns."""
    text = (ROOT / "benchmarks" / "results" / file).read_text()
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [row for row in found if len(row) == columns]


def test_the_table_of_addax_is_the_benchmarks():
    found = [row for row in rows("addax.md", 12) if row[2][:1].isdigit()]
    assert len(found) == 9
    for name, _, accuracy, _, _, gain, _, seconds, _, saved, taken, _ in found:
        assert f"| {name} | {accuracy} | {gain} | {seconds} | {saved} | {taken} |" in MEASURED


@pytest.mark.parametrize("block", finetune.BLOCKS, ids=lambda block: block.page.stem)
def test_fine_tuning_on_pages_is_the_benchmarks(block):
    records = finetune_records(RESULTS / "finetune.jsonl").all()
    assert block.into(page := block.page.read_text(), records) == page, f"run: {finetune.COMMAND}"
    assert len(page.partition("<!-- finetune")[2].partition("<!-- end of finetune")[0]) > 300


@pytest.mark.parametrize("table", [fits, fit_70b, pretrain], ids=lambda table: table.__name__)
def test_tables_of_plans_are_those_of_their_benchmarks(table):
    name, page = table.FILE.removesuffix(".jsonl"), table.BLOCK.page.read_text()
    assert page == table.BLOCK.into(page, table.records_at().all()), f"run: python -m benchmarks.{name} --write"


def test_the_table_of_what_fits_is_the_planners():
    records = fits.records_at()
    assert [record["model"] for record in records.all()] == list(fits.MODELS)
    estimator, way = Estimator(subject_of("llama-3.2-1b")), WAYS[0]
    peaks = [estimator.estimate(Request(**way.settings, **v)).peak_bytes for v in VARIANTS[:2]]
    known = records.find(model="llama-3.2-1b")["ways"][0]
    assert known["title"] == way.title and peaks == [pytest.approx(x, rel=0.01) for x in known["peaks"][:2]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_benchmarks_that_are_named_can_be_run(page):
    text = page.read_text()
    named = set(re.findall(r"python\s-m\s+benchmarks\.([a-z_0-9]+)", text))
    assert named <= {path.parent.name for path in (ROOT / "benchmarks").glob("*/__main__.py")}
    assert not re.search(r"python\s+benchmarks/", text)
