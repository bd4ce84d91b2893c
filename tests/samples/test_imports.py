from __future__ import annotations

import os
import pickle
import sys

import pytest

from auditkit.errors import UsageError
from auditkit.imports import import_object, last_line


def test_names_in_modules_and_dotted_names():
    assert import_object("os.path:join") is os.path.join
    assert import_object("os:path.join") is os.path.join


def test_a_file_leaves_only_its_own_module_behind(tmp_path):
    (tmp_path / "my-helper.v2.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "import neighbour_of_mine\n"
        "@dataclass(frozen=True)\nclass Point:\n    x: int = neighbour_of_mine.X\n"
    )
    (tmp_path / "neighbour_of_mine.py").write_text("X = 41")
    path, names = list(sys.path), set(sys.modules)
    point = import_object(f"{tmp_path / 'my-helper.v2.py'}:Point")
    assert sys.path == path
    assert len([name for name in set(sys.modules) - names if name.startswith("_auditkit_file_")]) == 1
    assert pickle.loads(pickle.dumps(point(3))) == point(3)  # noqa: S301
    assert point().x == 41
    assert import_object(f"{tmp_path / 'my-helper.v2.py'}:Point") is point


def test_an_edited_file_is_a_new_module(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    assert import_object(f"{tmp_path / 'a.py'}:x") == 1
    (tmp_path / "a.py").write_text("x = 2")
    assert import_object(f"{tmp_path / 'a.py'}:x") == 2


def test_a_file_may_be_named_relative_to_where_one_is(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("x = 1")
    monkeypatch.chdir(tmp_path)
    assert import_object("a.py:x") == 1


@pytest.mark.parametrize("spec", ["", "os", ":x", "os:", "a.py"])
def test_other_forms_are_refused(refused, spec):
    with refused("module:name or path.py:name", kind=UsageError):
        import_object(spec)


def test_missing_things_are_told(tmp_path, refused, monkeypatch):
    (tmp_path / "model.py").write_text("def resnet20(): ...\n")
    with refused("no_such_module_here", kind=UsageError):
        import_object("no_such_module_here.deep:x")
    with refused("modle.py", "did you mean model.py?", kind=UsageError):
        import_object(f"{tmp_path / 'modle.py'}:x")
    with refused("'resnet2'", "did you mean resnet20?", kind=UsageError):
        import_object(f"{tmp_path / 'model.py'}:resnet2")
    monkeypatch.chdir(tmp_path)
    with refused("say model.py:resnet20", kind=UsageError):
        import_object("model:resnet20")


BROKEN = {
    "raises": ("raise ValueError('one\\ntwo')", "ValueError: two"),
    "syntax": ("def (", "SyntaxError"),
    "needs": ("import no_such_module_here", "no_such_module_here"),
    "exits": ("import sys; sys.exit('bye')", "SystemExit: bye"),
    "silent": ("raise KeyError", "KeyError"),
}


@pytest.mark.parametrize(("text", "told"), BROKEN.values(), ids=BROKEN.keys())
def test_a_module_that_fails_says_why_and_leaves_nothing(tmp_path, refused, monkeypatch, text, told):
    (tmp_path / "broken_on_purpose.py").write_text(text)
    path, names = list(sys.path), set(sys.modules)
    with refused("broken_on_purpose.py", told):
        import_object(f"{tmp_path / 'broken_on_purpose.py'}:x")
    assert sys.path == path
    assert set(sys.modules) == names
    monkeypatch.syspath_prepend(tmp_path)
    with refused("broken_on_purpose", told):
        import_object("broken_on_purpose:x")


def test_the_last_line_of_an_error():
    assert last_line(ValueError("a\n  b \n")) == "ValueError: b"
    assert last_line(ValueError()) == "ValueError"
