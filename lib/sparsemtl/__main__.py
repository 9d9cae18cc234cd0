"""`python -m sparsemtl`, the command of version 0.1: says what it is called now, and does it."""

import sys
from importlib import import_module

if __name__ == "__main__":
    print("`python -m sparsemtl` is now the command `sparsemtl` (.venv/bin/sparsemtl)", file=sys.stderr)
    sys.exit(import_module("companion.__main__").main())
