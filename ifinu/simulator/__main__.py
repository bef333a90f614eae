"""`python -m ifinu.simulator`."""

import sys

from ifinu.simulator.process import main

sys.exit(main())
