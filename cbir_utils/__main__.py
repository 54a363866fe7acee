"""``python -m cbir_utils``: the same as the console script ``cbir``."""

import sys

from cbir_utils.pipeline import main

sys.exit(main())
