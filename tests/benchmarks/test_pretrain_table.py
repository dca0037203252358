"""Tables, verdicts and plot of the pre-training benchmark, from a journal that was made up."""

import math
from dataclasses import asdict, replace

import pytest

from benchmarks.pretrain import table as tables
from benchmarks.pretrain.bench import records_at
from benchmarks.pretrain.claims import CLAIMS, FAILS, HOLDS, OPEN, Claim
from benchmarks.pretrain.fitting import fitted, full_runs
from benchmarks.pretrain.methods import KNOWN
from benchmarks.pretrain.rows import STUDIES, Row
from benchmarks.pretrain.search import Cell, wanted
from hybridopt.core.registry import find, names
from hybridopt.policy.routes import read_policy

DONE, BEGUN = ("8 short, 4 full", "finished"), ("8 short, 1 full", "unfinished: 1 of 3 seeds, rate not confirmed")
PAGE = "measured in benchmarks/results/pretrain.md"
TIMES = {"median": 0.07, "mean": 0.02}


@pytest.fixture(autouse=True)
def three_seeds(monkeypatch):
    monkeypatch.setitem(STUDIES, "main", replace(STUDIES["main"], closer=()))


def row_of(name, study="main"):
    return Row(study, name, KNOWN[name], STUDIES[study].budget)


def record(row, cell, loss, state=8_000):
    """A record as a run leaves it, with a reported loss of 0.1 more than that for choosing."""
    full = cell.steps == row.budget.full_steps
    measured = {"choosing_loss": loss, "reporting_loss": loss + 0.1 if full else None, "run_seconds": 1.0}
    measured |= {"state_bytes": state, "planned_state_bytes": state, "parameters": 1000}
    measured |= {"cpu_seconds_per_step": TIMES, "update_cpu_seconds_per_step": TIMES, "environment": {"torch": "2"}}
    return {"study": row.study, "method": row.name, **asdict(cell), "settings": row.settings(cell.steps)} | measured


def journal(name, losses, state=8_000, study="main", most=99):
    """Records of a row whose full runs reach these losses by seed at rate 1e-3 and factor 4; at most so many."""
    row, found, records = row_of(name, study), {}, []
    while len(records) < most and (cells := wanted(found, row.plan({row.key: found}))):
        for cell in cells[: most - len(records)]:
            away = (abs(math.log(cell.lr / 1e-3)) + abs(math.log(cell.factor / 4))) / 10
            found[cell] = losses[cell.seed] + away
            records.append(record(row, cell, found[cell], state))
    return records


@pytest.fixture(scope="module")
def records():
    return [
        *journal("adamw", [3.0, 3.2, 3.1]),
        *journal("frugal", [3.01, 3.22, 3.11], state=2_000),
        *journal("galore", [3.5, 3.7, 3.4], state=3_000),
        *journal("frugal-0-whiten", [2.9], state=0, most=9),
        *journal("badam", [3.1], most=3),
    ]


def test_the_table_compares_seed_by_seed_and_says_how_far_each_row_is(records):
    found = tables.found_in(records)
    lines = tables.results(found, "main").splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [
        ["AdamW", "0.001", "4", "3.200 ± 0.100", "–", "–", "8.0 kB", "8 short, 4 full", "finished"],
        [KNOWN["frugal"].label, "0.001", "4", "3.213 ± 0.105", "+0.013 ± 0.006", "+0.4%", "2.0 kB", *DONE],
        ["FRUGAL ρ=0, whitening", "0.001", "4", "3.000", "-0.100", "-3.1%", "0 B", *BEGUN],
        ["GaLore ρ=0.25", "0.001", "4", "3.633 ± 0.153", "+0.433 ± 0.115", "+13.5%", "3.0 kB", *DONE],
        ["BAdam, one layer of four", "0.001", "4", "–", "–", "–", "8.0 kB", "3 short, 0 full", "search only"],
    ]


def test_verdicts_follow_from_intervals_of_paired_differences(records):
    found = tables.found_in(records)

    def verdict(one, other, margin=0.0):
        return Claim("", f"main/{one}", f"main/{other}", margin).verdict(found)

    assert verdict("frugal", "adamw", 0.01) == (HOLDS, "+0.013 ± 0.014 nats (+0.4%), 3 seeds")
    assert verdict("frugal", "adamw")[0] == OPEN and verdict("frugal", "galore")[0] == HOLDS
    assert verdict("galore", "frugal")[0] == FAILS
    assert verdict("frugal-0-whiten", "adamw", 0.01) == (OPEN, "-0.100 nats (-3.1%), 1 seed")
    assert verdict("badam", "muon") is None


def test_every_claim_is_on_rows_that_there_are():
    keys = {f"{study}/{name}" for study, asked in STUDIES.items() for name in asked.methods or KNOWN}
    assert {key for claim in CLAIMS for key in (claim.one, claim.other)} <= keys


def test_page_plot_and_docs_are_made_of_the_records(records, tmp_path, monkeypatch):
    kept, drawn = records_at(tmp_path / "pretrain.jsonl"), []
    monkeypatch.setattr(tables, "plot", lambda points, *_: drawn.extend(points))
    for one in [*records, *journal_of_another_study(records)]:
        kept.put(one)
    tables.publish(kept)
    page = (tmp_path / "pretrain.md").read_text()
    assert tables.results(tables.found_in(records), "main") in page and "## 2 M parameters" in page
    assert "| FRUGAL ρ=0.25 is ahead of GaLore ρ=0.25 | holds | -0.420 ±" in page
    assert "no full runs yet: FRUGAL ρ=0.25 is ahead of BAdam" in page.replace("\n", " ")
    assert "0.01 x 4: 3.230; in full: 0.001 x 4: 3.000, 0.003 x 4: 3.110" in page and "`mezo`" in page
    assert [(point.label, point.x, point.open) for point in drawn][2] == ("FRUGAL ρ=0, whitening", 0, True)
    assert len(drawn) == 4  # BAdam has no full run yet
    assert "| AdamW | 0.001 | 4 |" in tables.table(kept.all())
    with pytest.raises(SystemExit, match="no results"):
        tables.publish(records_at(tmp_path / "none.jsonl"))


def journal_of_another_study(records):
    row = row_of("adamw", "2m")
    cells = [Cell(lr, 4.0, 0, row.budget.short_steps) for lr in (3e-4, 1e-3, 3e-3)]
    return [record(row, cell, 3.0) for cell in cells]


def test_records_that_were_made_otherwise_are_refused(records):
    other = records[-1] | {"settings": records[-1]["settings"] | {"clip": 2.0}}
    with pytest.raises(SystemExit, match="study main: records were made with"):
        tables.found_in([*records, other])


def test_tokens_are_those_that_the_time_allows_or_those_recorded(records, monkeypatch):
    rows = {f"main/{name}": row_of(name) for name in ("adamw", "frugal")}
    rows = {key: replace(row, seeds=(0, 1)) for key, row in rows.items()}
    monkeypatch.setattr("benchmarks.pretrain.fitting.step_seconds", lambda *of: 0.5)
    budget = replace(STUDIES["main"].budget, train=("text",))
    monkeypatch.setattr(type(budget), "text", lambda self, data: type("Text", (), {"train": Many()}))
    seconds = 100 * 0.5 * 2 * full_runs(rows["main/adamw"]) / 0.85
    found = {row.budget.tokens for row in fitted(rows, [], seconds + 1, None).values()}
    assert found == {100 * 1024}
    assert {row.budget.tokens for row in fitted(rows, records, 1e9, None).values()} == {budget.tokens}
    assert {row.budget.tokens for row in fitted(rows, [], 1e9, None).values()} == {3 * Many.tokens}


class Many:
    """Windows that are only counted."""

    tokens = 102_400

    def numel(self):
        return self.tokens


def test_rates_to_start_from_are_those_that_full_runs_confirmed():
    found = tables.found_in(tables.records_at().all())
    own = [name for name in names("policies") if "start_from" in vars(find("policies", name))]
    rates = {name: read_policy(name, {}).start_from.pretrain for name in own}
    named = [name for name, rate in rates.items() if rate and PAGE in rate.source]
    assert {"adamw", "frugal"} <= set(named)
    for name in named:
        row, rate = found[f"main/{name}"], rates[name]
        assert row.confirmed and not row.edge
        assert rate.value == row.place[0]
        assert row.place[1] == 1 or f"embeddings_lr_scale={row.place[1]:g}" in rate.source
