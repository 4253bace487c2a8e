"""The tiny Diffusers checkpoints of tests/engines, for the tests of their folders."""

from tests.engines.conftest import checkpoint

__all__ = ["checkpoint"]
