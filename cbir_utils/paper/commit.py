"""Which version of this repository made a result."""

import subprocess
from contextlib import suppress
from pathlib import Path


def current_commit():
    """The commit that the repository is at, with a mark if files differ from it; ``None`` outside a git clone."""
    words = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty= with changes"]
    with suppress(OSError):  # there is no git
        return subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip() or None
