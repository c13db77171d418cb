"""``python -m receiver``, as ``run`` starts its roles."""

from __future__ import annotations

import sys

from receiver.cli import main

if __name__ == "__main__":
    sys.exit(main())
