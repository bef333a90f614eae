"""`python tests/simulation 17 -v` replays seed 17; `python tests/simulation 0:300` runs the seeds below 300."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from simulation.command import main  # noqa: E402 - found by the line above

sys.exit(main(sys.argv[1:]))
