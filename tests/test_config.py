"""Settings and gates of strangers: whatever stands in them is taken, or refused in one line; nothing is evaluated."""

from __future__ import annotations

import pytest

from auditkit.config import read_config, settings_from
from auditkit.errors import UsageError
from auditkit.quoting import printable, quoted
from auditkit.requirements import parse_requirement


def _refusal(work, given):
    with pytest.raises(UsageError) as caught:
        work(given)
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) < 1500
    return message


@pytest.mark.parametrize(
    "text",
    [
        b"seed = " + b"9" * 5000,
        b"x = " + b"[" * 100_000,
        b"x = " + b"{a = " * 5000,
        b'"\\u001b[2J" = 1',
        b'preset = "\\u001b[2J"',
        b'preset = "' + b"a" * 100_000 + b'"',
        b"model = 0x" + b"f" * 20_000,
        b"options = 0x" + b"f" * 20_000,
        b"\xff\xfe",
        b"seed = 1\x00",
    ],
)
def test_files_that_are_no_settings_are_refused_in_one_printable_line(tmp_path, text):
    file = tmp_path / "auditkit.toml"
    file.write_bytes(text)
    _refusal(lambda path: settings_from(read_config(path)), file)


def test_a_huge_file_is_not_read_to_its_end(tmp_path):
    file = tmp_path / "auditkit.toml"
    with file.open("wb") as stream:
        stream.truncate(2**40)
    assert "larger than 4 MiB" in _refusal(read_config, file)


def test_windows_line_ends_are_line_ends(tmp_path):
    file = tmp_path / "auditkit.toml"
    file.write_bytes(b"seed = 7\r\nlimit = 3\r\n")
    assert read_config(file) == {"seed": 7, "limit": 3}


@pytest.mark.parametrize(
    "values",
    [
        {"preset": "two\nlines"},
        {"preset": ["a" * 10_000]},
        {"seed": 16**9000},
        {"options": {"a\nb": 3}},
        {"a\x1b": 1},
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_printable_line(values):
    _refusal(settings_from, values)


@pytest.mark.parametrize(
    "gate",
    [
        "a" * 100_000,
        "a/" + "b " * 50_000,
        "a\x1b[2J/b >= 1",
        "a/b\u202e@1 >= 1",
        "a/b@\x00 >= 1",
        {"require": "a/b >= 1\n\n", "level": "x\ny"},
        {"require": "a/b\n\x1b >= 1", "other\n": 1},
        {"require": "a/b >= 1", "waiver": {"two\nlines": 1}},
        [16**9000],
    ],
)
def test_gates_that_are_none_are_refused_in_one_printable_line(gate):
    _refusal(parse_requirement, gate)


def test_a_long_value_is_shown_by_its_beginning_and_its_end():
    assert quoted("short") == "'short'"
    text = quoted("a" * 5000 + "the end")
    assert len(text) <= 200
    assert text.endswith("the end'")
    assert quoted(16**9000) == "int too long to be shown"


def test_what_cannot_be_printed_is_written_as_escapes():
    assert printable("a\nb\x1b\udcff\u202e") == "a\\nb\\x1b\\udcff\\u202e"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ray_address": "auto"}, "ray_address is for executor = ray"),
        ({"gpus_per_worker": 0.5}, "gpus_per_worker is for executor = ray"),
        ({"memory_limit": 2}, "say with workers how many"),
        ({"memory_limit": 2, "executor": "ray"}, "Ray watches over memory by itself"),
        ({"executor": "cloud"}, "executor = 'cloud'"),
        ({"gpus_per_worker": 0, "executor": "ray"}, "gpus_per_worker = 0"),
    ],
)
def test_what_other_workers_than_these_could_heed_is_refused(values, words) -> None:
    with pytest.raises(UsageError, match=words):
        settings_from(values)


def test_workers_of_each_kind_take_their_own_settings() -> None:
    assert settings_from({"workers": 2, "memory_limit": 1.5}).memory_limit == 1.5
    ray = settings_from({"executor": "ray", "ray_address": "auto", "gpus_per_worker": 0.25})
    assert (ray.ray_address, ray.gpus_per_worker) == ("auto", 0.25)
