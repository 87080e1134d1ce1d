"""Start a capsule: the only line that runs before it, so that everything else is compiled ahead."""

import sys

sys.path.insert(0, "/usr/lib/zdlab")
from zdlab.capsule.inside import main

sys.exit(main())
