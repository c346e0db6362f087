"""`python -m hearthd`."""

import sys

from hearthd.main import main

sys.exit(main())
