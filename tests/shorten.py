"""Give copies of notebooks the parameters of ``short.yaml``, as papermill does; ``make test`` runs them through nbval.

python tests/shorten.py results/check/series/notebooks/*.ipynb
"""

import sys
from pathlib import Path

import papermill
import yaml

from cbir_utils.runner.notebooks import declared_parameters

short = yaml.safe_load((Path(__file__).parent / "short.yaml").read_text())
for path in sys.argv[1:]:
    parameters = {name: value for name, value in short.items() if name in declared_parameters(Path(path))}
    if parameters:
        papermill.execute_notebook(path, path, parameters=parameters, prepare_only=True)
