"""Print the lowest versions that ``pyproject.toml`` allows, as constraints for pip: ``make test-oldest``.

python tests/oldest.py > oldest.txt
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
for text in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
    requirement = Requirement(text)
    lowest = next(bound.version for bound in requirement.specifier if bound.operator == ">=")
    print(f"{requirement.name}=={lowest}")
