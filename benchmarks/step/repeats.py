"""Rows that are measured in several processes, as each has its memory elsewhere, and memory is not equally fast."""

from collections.abc import Iterable

__all__ = ["middle", "spread"]


def middle(measured: Iterable[list[dict]]) -> list[dict]:
    """Return one record of every row: that of the median ratio, with the ratios of all processes in "processes".

    A row that failed in every process keeps its first record; one of two in the middle is the lower.

    Args:
        measured: the records of each process.
    """
    rows: dict[str, list[dict]] = {}
    for record in (record for records in measured for record in records):
        rows.setdefault(record["row"], []).append(record)
    return [_middle(records) for records in rows.values()]


def _middle(records: list[dict]) -> dict:
    whole = sorted((record for record in records if "failed" not in record), key=lambda record: record["ratio"])
    if not whole:
        return records[0]
    return whole[(len(whole) - 1) // 2] | {"processes": [record["ratio"] for record in whole]}


def spread(record: dict) -> str:
    """Return the lowest and the highest ratio of a row's processes, and how many there were; "" of one."""
    ratios = record.get("processes", [])
    return f"{min(ratios):.2f}–{max(ratios):.2f} ({len(ratios)})" if len(ratios) > 1 else ""
