"""`python -m ifinu`, the same as `ifinu`."""

import sys

from ifinu.cli import main

sys.exit(main())
