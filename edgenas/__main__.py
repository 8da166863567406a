"""`python -m edgenas` is `edgenas`; also what `torchrun` starts."""

from __future__ import annotations

import sys

from edgenas.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
