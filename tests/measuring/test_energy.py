"""Energy counters, read from trees of files like the one that Linux keeps in /sys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from podar.measuring.energy import POWERCAP, open_meter


def zone(root: Path, name: str, called: str, microjoules: int, limit: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{called}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{limit}\n")
    return folder / "energy_uj"


def test_packages_add_up_parts_of_them_do_not(tmp_path) -> None:
    first, second = (zone(tmp_path, f"intel-rapl:{i}", f"package-{i}", 1000) for i in range(2))
    core = zone(tmp_path, "intel-rapl:0:0", "core", 1000)
    meter = open_meter(tmp_path)
    assert meter.read is not None and meter.reason is None
    assert meter.read() == 0
    first.write_text("251000")
    second.write_text("501000")
    core.write_text("999000")
    assert meter.read() == pytest.approx(0.75)
    assert meter.read() == pytest.approx(0.75)


def test_a_counter_that_wraps_around(tmp_path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 900_000, limit=1_000_000)
    meter = open_meter(tmp_path)
    assert meter.read is not None
    counter.write_text("100000")
    assert meter.read() == pytest.approx(0.2)
    counter.write_text("300000")
    assert meter.read() == pytest.approx(0.4)


def test_no_counters(tmp_path) -> None:
    assert open_meter(tmp_path / "missing").read is None
    assert "does not exist" in str(open_meter(tmp_path / "missing").reason)
    zone(tmp_path, "dtpm", "not-a-processor", 5)
    assert "lists no processor package" in str(open_meter(tmp_path).reason)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_counters_that_only_root_may_read(tmp_path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 5).chmod(0)
    assert "chmod" in str(open_meter(tmp_path).reason)


@pytest.mark.skipif(open_meter().read is None, reason=f"no readable energy counters in {POWERCAP}")
def test_this_machines_counters_only_rise() -> None:
    read = open_meter().read
    assert read is not None
    assert 0 <= read() <= read()
