"""Writes the locked set: constraints.txt and its two neighbours, from the dependencies in pyproject.toml.

Run it as `make lock` (pins stay where they can), or `make lock UPGRADE=1` (everything anew). It asks uv for one
resolution that fits Linux, macOS and Windows and every Python that podar supports, with the hash of every file, and
divides it:

- constraints.txt: everything but CUDA's libraries. `pip install --no-deps --require-hashes -r` installs it.
- constraints-cpu.txt: PyTorch's CPU build, which `make` takes first where pip finds it.
- constraints-cuda.txt: what the build of torch for NVIDIA GPUs needs beside itself, for where that one was installed.

The table `tool.podar.lock` in pyproject.toml says what the resolver cannot know.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EVERYTHING, CPU, CUDA = (ROOT / f"constraints{suffix}.txt" for suffix in ("", "-cpu", "-cuda"))

TOP = "# Written by `make lock` (tools/lock.py) from pyproject.toml: change that and run it again.\n"
HEADERS = {
    EVERYTHING: """# The exact set that podar is tested with, with the hash of every file, for Linux, macOS and Windows.
# make installs it. By hand: pip install --no-deps --require-hashes -r constraints.txt, pip install --no-deps -e .
# (--no-deps, since all that is needed stands here: torch's own list would fetch gigabytes of CUDA's libraries.)
""",
    CPU: """# The CPU builds of torch that PyTorch's own index serves. Where pip finds none, constraints.txt has torch
# as the registry has it.
""",
    CUDA: """# What torch's build for NVIDIA GPUs needs beside constraints.txt: make installs it where torch cannot be
# imported without it, as where no CPU build was found.
""",
}


def main(upgrade: bool) -> None:
    """Resolve, divide, write."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    lock = project["tool"]["podar"]["lock"]
    blocks = divided(resolved(project, lock, upgrade))
    torch = next(block for block in blocks[EVERYTHING] if block.startswith("torch=="))
    hashes = "".join(f" \\\n    --hash=sha256:{digest}" for digest in lock["cpu-torch"])
    version = torch.split(" ")[0].removeprefix("torch==")
    blocks[EVERYTHING][blocks[EVERYTHING].index(torch)] = torch.rstrip("\n") + hashes + "\n"
    blocks[CPU] = [f"torch=={version}+cpu{hashes}\n"]
    for path, header in HEADERS.items():
        path.write_text(TOP + header + "".join(blocks[path]), encoding="utf-8")
    print(", ".join(f"{len(blocks[path])} packages in {path.name}" for path in HEADERS))


def resolved(project: dict[str, Any], lock: dict[str, Any], upgrade: bool) -> str:
    """What uv resolves for every platform and Python, with hashes; releases pinned now stay where they can."""
    oldest = project["project"]["requires-python"].removeprefix(">=")
    with tempfile.TemporaryDirectory() as folder:
        asked, overrides, pins = (Path(folder) / name for name in ("asked.in", "overrides.txt", "pins.txt"))
        asked.write_text("\n".join(wanted(project, lock)))
        overrides.write_text("\n".join([*lock["loosen"], *(f"{name} ; python_version < '3'" for name in lock["drop"])]))
        pins.write_text("" if upgrade else pinned())
        command = ["uv", "pip", "compile", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]
        command += ["--python-version", oldest, "--override", str(overrides), "--output-file", str(pins), str(asked)]
        command[0] = str(Path(sys.executable).parent / "uv")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return pins.read_text()


def pinned() -> str:
    """The releases that the files name now, without hashes, which are asked for anew: a release may gain wheels."""
    text = "".join(path.read_text() for path in (EVERYTHING, CUDA) if path.exists())
    return "\n".join(line.removesuffix("\\") for line in text.splitlines() if re.match(r"[a-z0-9]", line))


def wanted(project: dict[str, Any], lock: dict[str, Any]) -> list[str]:
    """podar's own dependencies, those of its extras and of its builds, and the packages that only the lock names."""
    extras: dict[str, list[str]] = project["project"]["optional-dependencies"]
    listed = [*project["project"]["dependencies"], *(one for extra in extras.values() for one in extra)]
    own = re.compile(r"podar\b")  # podar[test] and the like are extras themselves; podar-native is built from native/
    return [one for one in [*listed, *lock["build"], *lock["beside"]] if not own.match(one)]


def divided(text: str) -> dict[Path, list[str]]:
    """The resolution as one block of text a package, those of CUDA apart; what only a browser would install is left."""
    blocks: dict[Path, list[str]] = {EVERYTHING: [], CUDA: []}
    for block in re.findall(r"^[a-z0-9][^\n]*\n(?:[ ]+--hash[^\n]*\n?)*", text, flags=re.MULTILINE):
        first = block.splitlines()[0]
        name = first.split("==")[0]
        if "sys_platform == 'emscripten'" in first:
            continue
        cuda = name == "triton" or (name.startswith(("cuda-", "nvidia-")) and name != "nvidia-ml-py")
        blocks[CUDA if cuda else EVERYTHING].append(block)
    return blocks


if __name__ == "__main__":
    main(upgrade="--upgrade" in sys.argv[1:])
