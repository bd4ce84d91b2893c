"""The journal: it knows what an unfinished audit was about, which images it saw, and at what it died."""

from __future__ import annotations

import json
import re

import pytest

from auditkit.errors import ExecutionError, UsageError
from auditkit.journal import UNFINISHED, Journal

SUBJECT = {"model": "SHA-256 abc", "number of images": "3"}


def test_an_audit_that_ended_leaves_nothing_behind(tmp_path):
    Journal(tmp_path, SUBJECT).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SUBJECT)
def test_another_subject_is_refused_with_what_it_was_and_what_it_is(tmp_path, name):
    Journal(tmp_path, SUBJECT)
    with pytest.raises(UsageError, match=re.escape(f"another {name}: it began with {SUBJECT[name]}, and now it is x")):
        Journal(tmp_path, {**SUBJECT, name: "x"})
    Journal(tmp_path, SUBJECT)


def test_a_changed_image_is_named_and_others_are_taken(tmp_path):
    Journal(tmp_path, SUBJECT).see(("cat/1.png", "cat/2.png"), ("a" * 64, "b" * 64))
    resumed = Journal(tmp_path, SUBJECT)
    resumed.see(("cat/1.png", "dog/1.png"), ("a" * 64, "c" * 64))
    with pytest.raises(ExecutionError, match=r"^cat/2\.png is not the image"):
        resumed.see(("cat/2.png",), ("d" * 64,))
    with pytest.raises(ExecutionError, match=r"^dog/1\.png is not the image"):
        Journal(tmp_path, SUBJECT).see(("dog/1.png",), ("d" * 64,))


def test_units_under_way_at_a_death_are_suspects_and_those_that_ended_or_raised_are_not(tmp_path):
    journal = Journal(tmp_path, SUBJECT)
    with journal.at("ended"):
        pass
    with pytest.raises(KeyboardInterrupt), journal.at("interrupted"):
        raise KeyboardInterrupt
    under_way = journal.at("died")
    under_way.__enter__()
    assert journal.suspects == set()
    assert Journal(tmp_path, SUBJECT).suspects == {"died"}


def test_one_that_was_a_suspect_and_ended_since_is_none_any_more(tmp_path):
    Journal(tmp_path, SUBJECT).at("unit").__enter__()
    with Journal(tmp_path, SUBJECT).at("unit"):
        pass
    assert Journal(tmp_path, SUBJECT).suspects == set()


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_cut_short_spoils_no_other(tmp_path, cut):
    journal = Journal(tmp_path, SUBJECT)
    journal.see(("one",), ("a" * 64,))
    journal.see(("two",), ("b" * 64,))
    file = tmp_path / UNFINISHED
    file.write_bytes(file.read_bytes()[:-cut])
    resumed = Journal(tmp_path, SUBJECT)
    resumed.see(("two",), ("c" * 64 if cut > 1 else "b" * 64,))
    with pytest.raises(ExecutionError, match="one is not"):
        resumed.see(("one",), ("c" * 64,))


@pytest.mark.parametrize("line", ["7", "[]", '{"subject": 3, "images": [1], "begun": {}, "ended": null}', "\xff\x00"])
def test_whatever_somebody_wrote_into_it_is_no_crash(tmp_path, line):
    (tmp_path / UNFINISHED).write_text(line)
    Journal(tmp_path, SUBJECT).see(("one",), ("a" * 64,))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(ExecutionError, match="cannot write"):
        Journal(tmp_path / "missing", SUBJECT)


def test_each_line_is_json(tmp_path):
    Journal(tmp_path, SUBJECT).see(("a\u2028b\ud800",), ("a" * 64,))
    lines = [line for line in (tmp_path / UNFINISHED).read_text().split("\n") if line]
    assert [sorted(json.loads(line)) for line in lines] == [["subject"], ["images"]]
