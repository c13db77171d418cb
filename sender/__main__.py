"""``python -m sender`` is ``checkvalve-sender``; ``run`` starts its roles this way."""

from __future__ import annotations

import sys

from sender.cli import main

if __name__ == "__main__":
    sys.exit(main())
