"""The pages of planned peaks and of traffic are what their records say, in the form of all other tables."""

import pytest

from benchmarks.plan_grid.report import report, report_ranks
from benchmarks.rank_traffic.__main__ import report as traffic
from benchmarks.shared.places import RESULTS
from benchmarks.shared.records import Records


@pytest.mark.parametrize(
    ("name", "made", "key"),
    [("plan_grid", report, "cell"), ("plan_ranks", report_ranks, "cell"), ("rank_traffic", traffic, "policy")],
)
def test_pages_follow_from_their_records(name, made, key):
    assert (RESULTS / f"{name}.md").read_text() == made(Records(RESULTS / f"{name}.jsonl", (key,)).all())
