"""`python -m minted_connect.cli`: the command line, where its script is not on the path."""

import sys

from minted_connect.cli import main

sys.exit(main())
