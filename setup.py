"""Build the optional extension; everything else about the package is in setup.cfg.

RLAY_BUILD_EXTENSION=yes makes a failing compiler an error; =no skips the extension.
"""

import os

from setuptools import Extension, setup

wish = os.environ.get("RLAY_BUILD_EXTENSION", "")
if wish not in ("", "yes", "no"):
    raise SystemExit(f"RLAY_BUILD_EXTENSION is {wish!r}, expected 'yes', 'no' or nothing")

SOURCES = ["rlay/_atomics.c", "rlay/_exchange.c", "rlay/_lanes.c"]
HEADERS = ["rlay/_atomics.h", "rlay/_exchange.h"]
extension = Extension("rlay._atomics", SOURCES, depends=HEADERS, optional=wish != "yes")
setup(ext_modules=[] if wish == "no" else [extension])
