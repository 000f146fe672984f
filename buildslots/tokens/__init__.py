"""CPU tokens: the jobs of all builds of a machine are bounded together, and not only the builds."""

from buildslots.tokens.service import Service, serve

__all__ = ["Service", "serve"]
