"""``python -m dagger_dsl``: the command `dagger-dsl`, where it is not on the path."""

import sys

from dagger_dsl.cli import main

if __name__ == "__main__":
    sys.exit(main())
