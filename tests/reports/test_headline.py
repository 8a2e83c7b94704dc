"""The headline rows and the sentence: what got better is called better, what got worse worse."""

from __future__ import annotations

from podar.reports import headline


def test_every_number_that_both_halves_have_is_a_row(summary) -> None:
    rows = {row.field: row for row in headline.rows(summary["before"], summary["after"])}
    assert list(rows) == [
        "accuracy",
        "macs",
        "params",
        "bytes",
        "latency_ms.p50",
        "latency_ms.p95",
        "memory_bytes",
    ]
    assert rows["macs"].change == "0.50×" and rows["macs"].verdict == "better"
    assert rows["accuracy"].change == "−0.58 pts" and rows["accuracy"].verdict == "worse"
    assert rows["latency_ms.p50"].kept == 0.9411 / 1.4234


def test_what_was_not_measured_is_no_row() -> None:
    rows = headline.rows({"macs": 4, "energy_joules": None, "latency_ms": None}, {"macs": 4, "energy_joules": 0.1})
    assert [(row.field, row.verdict) for row in rows] == [("macs", "same")]


def test_latency_changes_by_the_ratio_of_runs_in_turn(summary) -> None:
    before, after = summary["before"], summary["after"]
    row = next(row for row in headline.rows(before, after, 0.75) if row.field == "latency_ms.p50")
    assert (row.change, row.verdict, row.kept) == ("0.75×", "better", 0.75)
    assert (row.before, row.after) == (1.4234, 0.9411)
    assert "1.3 times faster" in headline.sentence(before, after, 0.75)
    row = next(row for row in headline.rows(before, after, 1.1) if row.field == "latency_ms.p50")
    assert (row.change, row.verdict) == ("1.10×", "worse")
    assert "1.1 times slower" in headline.sentence(before, after, 1.1)


def test_the_sentence_is_honest(summary) -> None:
    before, after = summary["before"], summary["after"]
    assert headline.sentence(before, after) == "2.0 times fewer MACs, 1.5 times faster, 0.58 points of accuracy lost"
    assert headline.sentence(after, before) == "2.0 times more MACs, 1.5 times slower, 0.58 points of accuracy won"
    assert headline.sentence(before, before) == "As many MACs, as fast, the same accuracy"
    assert headline.sentence({}, {}) == "Pruned"
