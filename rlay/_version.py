"""The library's version; the protocol's is ``rlay.protocol.constants.PROTOCOL_VERSION``."""

__version__ = "0.1.0"
