"""Pages of the documentation that change the package: their code, a copy of the package to change, its command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> dict[str, str]:
    """The code of a how-to by the title of its block, without common indentation."""
    text = (ROOT / "docs" / "how-to" / page).read_text(encoding="utf-8")
    found = re.findall(r'```python title="(.*?)"\n(.*?)```', text, re.DOTALL)
    return {title: textwrap.dedent(code) for title, code in found}


class Clone:
    """A copy of the package's source, to be changed as a page says."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.package = folder / "fireassay"
        shutil.copytree(ROOT / "src" / "fireassay", self.package, copy_function=shutil.copy2)

    def insert(self, file: str, code: str, *, before: str = "", after: str = "", indent: int = 0) -> None:
        """Writes `code` at the one place of `file` that begins or ends with a text."""
        path = self.package / file
        text, place = path.read_text(encoding="utf-8"), before or after
        assert text.count(place) == 1, (file, place)
        new = textwrap.indent(code, " " * indent)
        path.write_text(text.replace(place, new + place if before else place + new), encoding="utf-8")

    def python(self, *arguments: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Runs Python with the changed package."""
        environment = {**os.environ, "PYTHONPATH": str(self.path)}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    def fireassay(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Runs the command of the changed package."""
        return self.python("-m", "fireassay", *arguments)
