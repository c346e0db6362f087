"""`python -m hearth_tui` is `hearth`."""

import sys

from hearth_tui.cli import main

sys.exit(main())
