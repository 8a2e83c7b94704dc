"""Reads the disassembly of the sparse kernels: no innermost loop of products may keep its sums on the stack.

python native/tests/spills.py kernels_avx512.cpp.o kernels_avx2.cpp.o      (`make check-spills` builds them)

Exits with 1 and names the loops where a vector register is stored to or loaded from the stack.
"""

from __future__ import annotations

import re
import subprocess
import sys

_LABEL = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_LINE = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*)$")
_STACK = re.compile(r"\(%r[sb]p\)")


def functions(path: str) -> dict[str, list[tuple[int, str, str]]]:
    """Address, instruction and operands of every line of each tile of the sparse kernel."""
    command = ["objdump", "-d", "--no-show-raw-insn", path]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, list[tuple[int, str, str]]] = {}
    lines: list[tuple[int, str, str]] | None = None
    for line in text.splitlines():
        if label := _LABEL.match(line):
            lines = found.setdefault(label[1], []) if "4tileILi" in label[1] else None
        elif lines is not None and (match := _LINE.match(line)):
            lines.append((int(match[1], 16), match[2], match[3]))
    return found


def inner_loops(lines: list[tuple[int, str, str]]) -> list[list[tuple[int, str, str]]]:
    """Stretches between a jump back and its target that hold no smaller such stretch, and multiply."""
    places = {address: i for i, (address, _, _) in enumerate(lines)}
    spans = []
    for i, (address, name, operands) in enumerate(lines):
        target = re.match(r"([0-9a-f]+)", operands)
        if name.startswith("j") and target and int(target[1], 16) < address and int(target[1], 16) in places:
            spans.append((places[int(target[1], 16)], i))
    inner = [s for s in spans if not any(s[0] <= o[0] and o[1] <= s[1] and o != s for o in spans)]
    return [lines[a : b + 1] for a, b in inner if any("fmadd" in name for _, name, _ in lines[a : b + 1])]


def main() -> int:
    spilled, loops = [], 0
    for path in sys.argv[1:]:
        for name, lines in functions(path).items():
            for loop in inner_loops(lines):
                loops += 1
                bad = [f"{n} {o}" for _, n, o in loop if n.startswith("v") and _STACK.search(o)]
                if bad:
                    spilled.append(f"{path}: {name}: {bad[0]} ({len(bad)} such)")
    print("\n".join(spilled) or f"{loops} loops, none keeps a vector on the stack")
    return int(bool(spilled) or not loops)


if __name__ == "__main__":
    sys.exit(main())
