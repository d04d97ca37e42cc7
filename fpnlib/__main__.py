"""``python -m fpnlib demo | run | report | verify | data``: see :mod:`fpnlib.runs.cli`."""

import signal
import sys

from fpnlib.runs.cli import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's "stop" is a Ctrl-C
    sys.exit(main())
