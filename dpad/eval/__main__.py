"""``python -m dpad.eval``."""

import sys

from dpad.cli import MISSING
from dpad.eval import main

try:
    main()
except ModuleNotFoundError as error:
    if error.name != "lm_eval":
        raise
    print(f"dpad: {error}", file=sys.stderr)
    sys.exit(MISSING)
