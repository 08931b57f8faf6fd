"""``python -m makemore``, as the command ``makemore``: train, sample, draw, page, export or search."""

import sys

from makemore.commands.cli import main

sys.exit(main())
