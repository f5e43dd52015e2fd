"""``python -m dpad.cli``."""

import sys

from dpad.cli import main

sys.exit(main())
