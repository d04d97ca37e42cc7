"""The examples in the docstrings of every module hold."""

import doctest
from importlib import import_module

import pytest

from fpnlib.store import PROJECT

FILES = [path for path in (PROJECT / "fpnlib").rglob("*.py") if ">>> " in path.read_text()]
MODULES = [".".join(path.relative_to(PROJECT).with_suffix("").parts) for path in FILES]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_examples(module):
    result = doctest.testmod(import_module(module.removesuffix(".__init__")))
    assert result.attempted and not result.failed
