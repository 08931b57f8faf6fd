"""``python -m makemore train``, ``sample`` or ``draw``."""

import sys

from makemore.commands.cli import main

sys.exit(main())
