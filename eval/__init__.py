"""Started with `python -m`, this package finds its siblings (`configs`, ...) beside it: a folder of
that name where the user stands, which Python searches first, must not come before them."""

import os
import sys

if sys.argv[:1] == ["-m"] and sys.path[0] == os.getcwd() != os.path.dirname(__path__[0]):
    sys.path.append(sys.path.pop(0))
