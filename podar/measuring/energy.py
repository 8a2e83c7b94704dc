"""Energy that the processor package drew, read from the RAPL counters of Linux (Intel and AMD)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class EnergyMeter:
    """`read()` gives the joules drawn since the meter was opened, or is None; then `reason` says why."""

    read: Callable[[], float] | None
    reason: str | None = None


def open_meter(powercap: Path = POWERCAP) -> EnergyMeter:
    """A meter over every processor package of the machine.

    RAPL counts the whole package, other processes included: on a busy machine it is an upper bound.
    Where the counters are missing (virtual machines, ARM) or not readable (root only since Linux 5.10), `read` is None
    and `reason` says so in a sentence.
    """
    if not powercap.is_dir():
        return EnergyMeter(
            None, f"no energy counters: {powercap} does not exist (a virtual machine, or not Linux on x86)."
        )
    packages = sorted(
        zone
        for zone in powercap.iterdir()
        if (zone / "energy_uj").exists() and _text(zone / "name").startswith("package")
    )
    if not packages:
        return EnergyMeter(None, f"no energy counters: {powercap} lists no processor package.")
    try:
        counters = [_Counter(zone) for zone in packages]
    except PermissionError as error:
        return EnergyMeter(
            None,
            f"the energy counters are not readable: sudo chmod a+r {error.filename} allows it until the next boot.",
        )
    except (OSError, ValueError) as error:
        return EnergyMeter(None, f"the energy counters cannot be read: {error}.")
    return EnergyMeter(lambda: sum(counter.joules() for counter in counters))


class _Counter:
    """One package's counter in microjoules; it wraps around within minutes to hours, so it keeps a running total."""

    def __init__(self, zone: Path) -> None:
        self._file = zone / "energy_uj"
        self._range = int(_text(zone / "max_energy_range_uj") or 0)
        self._last = self._now()
        self._total = 0

    def _now(self) -> int:
        return int(self._file.read_text())

    def joules(self) -> float:
        now = self._now()
        self._total += now - self._last if now >= self._last else now + self._range - self._last
        self._last = now
        return self._total / 1e6


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
