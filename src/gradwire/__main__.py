"""`python -m gradwire` is the command `gradwire`, for where scripts are not on the PATH."""

from __future__ import annotations

import sys

from gradwire.bench.cli import main

sys.exit(main())
