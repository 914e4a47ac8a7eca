"""``rlay bench``: what rlay costs on this machine, beside its peers and beside the floor."""

from rlay.tools.bench.command import add_arguments, run

__all__ = ["add_arguments", "run"]
