"""The processor that a figure was measured on: its name, cores and the instruction sets that decide speed."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Of the hundred flags a kernel lists, those that a runtime chooses its kernels by. `asimd` is how Linux calls NEON.
_DECISIVE = (
    "sse4_2 avx avx2 fma f16c avx_vnni avx512f avx512bw avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16 "
    "asimd asimdhp asimddp i8mm bf16 sve sve2 sme"
).split()


@dataclass(frozen=True)
class Processor:
    """Name as the operating system gives it, cores this process may use, decisive instruction sets."""

    name: str
    cores: int
    instruction_sets: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}, {self.cores} core{'s' if self.cores != 1 else ''}"

    def to_json(self) -> dict[str, object]:
        return {"name": self.name, "cores": self.cores, "instruction_sets": list(self.instruction_sets)}


@cache
def processor() -> Processor:
    """The processor of this machine.

    ```python
    >>> processor().cores >= 1
    True

    ```
    """
    listing = Path("/proc/cpuinfo")
    text = listing.read_text(errors="replace") if listing.exists() else ""
    name, sets = parse_cpuinfo(text)
    return Processor(name or _name_without_proc(), _usable_cores(), sets)


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """Model name and decisive instruction sets of the first processor in a /proc/cpuinfo text ("" and (): unknown)."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    name = fields.get("model name") or fields.get("hardware") or ""  # ARM boards give "Hardware", or nothing
    present = set((fields.get("flags") or fields.get("features") or "").split())
    return name, tuple(flag for flag in _DECISIVE if flag in present)


def _name_without_proc() -> str:
    if platform.system() == "Darwin":
        asked = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False, timeout=5
        )
        if asked.stdout.strip():
            return asked.stdout.strip()
    return platform.processor() or platform.machine() or "unknown processor"


def _usable_cores() -> int:
    # A container or taskset may allow fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
