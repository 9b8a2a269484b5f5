"""`python -m modelyard.cli`: the same as `yard`."""

import sys

from modelyard.cli import main

sys.exit(main())
