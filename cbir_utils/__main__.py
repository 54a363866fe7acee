"""``python -m cbir_utils``: the same as the console script ``cbir``."""

import sys

from cbir_utils.runner.cli import main

sys.exit(main())
