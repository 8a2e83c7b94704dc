"""Asks for known faults in the locked set with pip-audit, and says plainly for which packages nobody answered.

Run it as `make audit`. It ends with 1 where a fault is known, and also where the list of faults could not be reached,
as behind a mirror of the registry that has packages and no advisories: not audited is not the same as sound.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ("constraints.txt", "constraints-cuda.txt")


def main() -> int:
    """Audit, print a line for each fault, and return the exit code."""
    command = [str(Path(sys.executable).parent / "pip-audit"), "--format=json", "--progress-spinner=off"]
    command += ["--disable-pip", "--require-hashes", *(f"--requirement={ROOT / name}" for name in FILES)]
    ran = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = ran.stderr.strip().splitlines()[-1:] or ["pip-audit said nothing"]
        print(f"nothing was audited: {last[0]}")
        return 1
    asked = [one for one in packages if "vulns" in one]
    silent = [one["name"] for one in packages if "vulns" not in one]
    faults = [(one, fault) for one in asked for fault in one["vulns"]]
    for one, fault in faults:
        mended = ", ".join(fault["fix_versions"]) or "no release"
        print(f"{one['name']} {one['version']}: {fault['id']}, mended in {mended}")
    print(f"{len(asked)} packages audited, {len(faults)} known faults")
    if silent:
        named = ", ".join(silent[:3]) + (" ..." if len(silent) > 3 else "")
        print(f"{len(silent)} packages could not be audited, since no list of their faults can be reached: {named}")
    return 1 if faults or silent else 0


if __name__ == "__main__":
    sys.exit(main())
