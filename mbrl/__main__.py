"""`python -m mbrl` is the `mbrl` command."""

import sys

from mbrl.cli.main import main

sys.exit(main())
