"""The examples in the docstrings of public names do what they show."""

from __future__ import annotations

import asyncio
import doctest
import os
import threading
import warnings
from typing import TYPE_CHECKING

import pytest

import buildslots

if TYPE_CHECKING:
    from builds import Pool

AROUND = {module.__name__: module for module in (asyncio, os, threading, warnings)}


@pytest.mark.parametrize("name", buildslots.__all__)
def test_example(pool: Pool, name: str) -> None:
    """Every public name has one, and needs nothing but the public names and a few modules."""
    public = {each: getattr(buildslots, each) for each in buildslots.__all__}
    docstring = public[name].__doc__
    test = doctest.DocTestParser().get_doctest(docstring, public | AROUND, name, None, None)
    assert test.examples, f"{name} has no example"
    said: list[str] = []
    result = doctest.DocTestRunner().run(test, out=said.append)
    assert (result.failed, "".join(said)) == (0, "")
    assert (pool.held(), pool.leftovers()) == ([], [])
