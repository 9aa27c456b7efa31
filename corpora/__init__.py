"""With `python -m`, Python searches the current folder first. It is moved to the end, so that a
folder named `configs` there does not hide ours.
"""

import os
import sys

if sys.argv[:1] == ["-m"] and sys.path[0] == os.getcwd() != os.path.dirname(__path__[0]):
    sys.path.append(sys.path.pop(0))
