"""`python -m tests.acceptance.command` is `dagger-dsl`, wherever the package comes from."""

import sys

from dagger_dsl.cli import main

if __name__ == "__main__":
    sys.exit(main())
