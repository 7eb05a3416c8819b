"""Runs the command line as `python -m minted_connect.cli`, for installations whose scripts are not on the PATH."""

import sys

from minted_connect.cli import main

sys.exit(main())
