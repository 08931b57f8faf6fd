"""``python -m makemore``, as the command ``makemore``: train, sample, draw or page."""

import sys

from makemore.commands.cli import main

sys.exit(main())
