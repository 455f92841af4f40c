"""`python -m hwtrain.report RUN_DIR ...`."""

import sys

from hwtrain.report.command import main

if __name__ == "__main__":
    sys.exit(main())
