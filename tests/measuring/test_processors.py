"""The processor's name and instruction sets, here and in listings of other machines."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from podar.measuring import processor
from podar.measuring.processors import parse_cpuinfo

ARM = """processor	: 0
BogoMIPS	: 108.00
Features	: fp asimd evtstrm crc32 cpuid asimddp
CPU part	: 0xd0b

Hardware	: BCM2835
Model		: Raspberry Pi 5 Model B Rev 1.0
"""
X86 = """processor	: 0
model name	: AMD Ryzen 7 3700X 8-Core Processor
flags		: fpu sse sse2 sse4_2 avx f16c fma avx2

processor	: 1
model name	: another
flags		: fpu avx512f
"""


def test_listings_of_other_machines() -> None:
    assert parse_cpuinfo(X86) == ("AMD Ryzen 7 3700X 8-Core Processor", ("sse4_2", "avx", "avx2", "fma", "f16c"))
    assert parse_cpuinfo(ARM) == ("BCM2835", ("asimd", "asimddp"))
    assert parse_cpuinfo("") == ("", ())


def test_this_machine() -> None:
    here = processor()
    assert here.name
    assert 1 <= here.cores <= (os.cpu_count() or 1)
    assert json.loads(json.dumps(here.to_json()))["name"] == here.name
    assert here.name in str(here)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no /proc/cpuinfo on this system")
def test_instruction_sets_are_the_kernels_words() -> None:
    words = Path("/proc/cpuinfo").read_text().split()
    assert all(name in words for name in processor().instruction_sets)
