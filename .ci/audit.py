"""Look the versions of constraints.txt up in the registry's list of known vulnerabilities.

    make audit

Cost: 20 s, the first time with pip-audit's installation beside the environment. CI runs it; it is
no part of `make check` or `make test`, since what is known changes without us.
Exit codes: 0 nothing is known, or the list could not be read, which is said; 1 something is known.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Not in the environment that it looks at: what it needs itself is not ours.
ENVIRONMENT = ROOT / ".venv" / "audit"
TOOL = "pip-audit==2.10.1"
TIMEOUT_S = 300

IGNORED: dict[str, str] = {}
"""What is known and does not concern us: the identifier, and why."""


def summarise(output: str) -> tuple[list[str], int]:
    """Return lines for the reader of pip-audit's JSON, and the exit code."""
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return ["audit: NOT CHECKED, pip-audit gave no answer"], 0
    skipped = [item["name"] for item in packages if "skip_reason" in item]
    if len(skipped) == len(packages):
        return [
            f"audit: NOT CHECKED, the registry has no list of vulnerabilities for any of "
            f"{len(packages)} packages"
        ], 0
    found = [
        f"{item['name']} {item['version']}: {entry['id']}"
        + (f", mended in {', '.join(entry['fix_versions'])}" if entry["fix_versions"] else "")
        for item in packages
        for entry in item.get("vulns", [])
        if not IGNORED.keys() & {entry["id"], *entry.get("aliases", [])}
    ]
    checked = f"audit: {len(packages) - len(skipped)} of {len(packages)} packages checked"
    missing = f"; not checked: {', '.join(skipped)}" if skipped else ""
    return [f"{checked}, {len(found)} known vulnerabilities{missing}", *found], int(bool(found))


def run() -> tuple[list[str], int]:
    """Install pip-audit where it is missing, and ask it."""
    tool = ENVIRONMENT / "bin" / "pip-audit"
    steps = [
        [sys.executable, "-m", "venv", str(ENVIRONMENT)],
        [str(ENVIRONMENT / "bin" / "pip"), "install", "--quiet", TOOL],
    ]
    question = [str(tool), "-r", str(ROOT / "constraints.txt"), "--no-deps", "--disable-pip"]
    try:
        for step in [] if tool.exists() else steps:
            subprocess.run(step, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
        done = subprocess.run(
            [*question, "--progress-spinner", "off", "-f", "json"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return [f"audit: NOT CHECKED, {error}"], 0
    lines, code = summarise(done.stdout)
    if lines[0].endswith("gave no answer") and done.stderr.strip():
        lines.append(done.stderr.strip().splitlines()[-1])
    return lines, code


if __name__ == "__main__":
    messages, exit_code = run()
    sys.stdout.write("\n".join(messages) + "\n")
    sys.exit(exit_code)
