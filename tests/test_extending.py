"""docs/extending.md is run as it stands, in a process of its own: every seam on an example of at most 30 lines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import podar

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
RUN = """
import re, sys
from pathlib import Path
names = {"folder": Path(sys.argv[2]), "__name__": "extending"}
page = Path(sys.argv[1]).read_text(encoding="utf-8")
for number, block in enumerate(re.findall(r"```python\\n(.*?)```", page, re.DOTALL)):
    exec(compile(block, f"block {number} of the page", "exec"), names)
print(number + 1, "blocks ran")
"""


def test_the_page_on_extending_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert all(len(block.splitlines()) <= 30 for block in blocks)
    ran = subprocess.run(
        [sys.executable, "-c", RUN, str(PAGE), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert ran.stdout == f"{len(blocks)} blocks ran\n", ran.stderr


def test_every_folder_that_the_page_names_is_there() -> None:
    folders = re.findall(r"`podar/(\S+)/` \|", PAGE.read_text(encoding="utf-8"))
    assert len(folders) >= 7 and all(
        (Path(podar.__file__).parent / folder / "__init__.py").is_file() for folder in folders
    )
