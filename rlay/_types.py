"""Names for types that several floors use."""

from __future__ import annotations

import mmap
from typing import TypeAlias

#: Memory that can be read and written in place: a mapped file, or a stand-in for one.
Buffer: TypeAlias = mmap.mmap | bytearray | memoryview
