"""Build the optional extension; everything else about the package is in setup.cfg.

RLAY_BUILD_EXTENSION=yes makes a failing compiler an error; =no skips the extension.
"""

import glob
import os

from setuptools import Extension, setup

wish = os.environ.get("RLAY_BUILD_EXTENSION", "")
if wish not in ("", "yes", "no"):
    raise SystemExit(f"RLAY_BUILD_EXTENSION is {wish!r}, expected 'yes', 'no' or nothing")

SOURCES, HEADERS = sorted(glob.glob("rlay/*.c")), sorted(glob.glob("rlay/*.h"))
extension = Extension("rlay._atomics", SOURCES, depends=HEADERS, optional=wish != "yes")
setup(ext_modules=[] if wish == "no" else [extension])
