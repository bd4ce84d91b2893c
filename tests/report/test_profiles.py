"""Values along the layers of a network: what the figure shows, what it says in words, and its table."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest
from understanding import profile

from auditkit.report import render_html
from auditkit.report.log_axis import log_axis
from auditkit.report.profile_figure import axis_names, draw_profile
from auditkit.report.profiles import profile_rows, profile_takeaway, profile_words
from auditkit.result import ProfileRecord


def made(places: int = 3, *, logarithmic: bool = False, **lines: tuple[float | None, ...]) -> ProfileRecord:
    return ProfileRecord(
        title="Largest activation",
        x_label="layers",
        y_label="activation",
        places=tuple(f"layer{number}" for number in range(places)),
        lines=lines,
        logarithmic=logarithmic,
    )


def texts(record: ProfileRecord) -> list[str]:
    root = ET.fromstring(draw_profile(record, "p"))  # noqa: S314 (our own output)
    return ["".join(element.itertext()) for element in root.iter("text")]


def lines_of(record: ProfileRecord) -> list[str]:
    """Return the path of each line that is drawn."""
    svg = draw_profile(record, "p")
    return re.findall(r'<path d="([^"]*)" clip-path="[^>]* stroke="#', svg)


def test_places_stand_on_the_axis_by_name_while_they_fit():
    shown = texts(profile(19, logarithmic=False))
    assert {"conv1.relu", "layer3.2.relu2", "layers, from input to output"} <= set(shown)


def test_a_long_name_keeps_both_its_ends():
    record = made(1, a=(1.0,)).model_copy(update={"places": ("backbone.features.denseblock4.denselayer16.relu2",)})
    (name,) = [text for text in texts(record) if text.startswith("backbone")]
    assert len(name) == 18
    assert name.endswith("r16.relu2")


def test_names_stand_without_what_all_share_and_never_alike():
    record = made(3, a=(1.0, 2.0, 3.0))
    short = record.model_copy(update={"places": tuple(f"backbone.features.relu{number}" for number in range(3))})
    assert axis_names(short) == ["relu0", "relu1", "relu2"]
    assert axis_names(made(1, a=(1.0,))) == ["layer0"]
    long = tuple(f"denseblock{number}.denselayer16.normalisation" for number in range(3))
    assert axis_names(record.model_copy(update={"places": long})) is None
    assert texts(record.model_copy(update={"places": long}))[:3] == ["1", "2", "3"]


def test_many_places_are_numbered_from_the_first_to_the_last():
    shown = texts(profile(150, logarithmic=False))
    assert "conv1.relu" not in shown
    assert shown[: shown.index("layers, from input to output")] == ["1", "20", "40", "60", "80", "100", "120", "150"]


@pytest.mark.parametrize("count", [25, 26, 49, 50, 99, 101, 150, 151, 500, 1234])
def test_numbers_leave_room_for_each_other(count):
    shown = texts(profile(count, logarithmic=False))
    numbers = [int(text) for text in shown[: shown.index("layers, from input to output")]]
    assert numbers[0] == 1
    assert numbers[-1] == count
    assert 3 <= len(numbers) <= 12
    assert all((later - earlier) / count > 0.035 for earlier, later in itertools.pairwise(numbers))


def test_a_missing_value_leaves_a_gap_and_one_between_gaps_is_seen():
    whole, broken = lines_of(made(5, a=(1.0, 2.0, 3.0, 4.0, 5.0), b=(1.0, 2.0, None, 4.0, 5.0)))
    assert whole.count("M") == 1
    assert broken.count("M") == 2
    thirty = tuple(None if number in (14, 16) else 1.0 for number in range(30))
    svg = draw_profile(made(30, a=thirty), "p")
    x = 520 * (0.13 + 0.86 * (15 + 1.2) / (29 + 2 * 1.2))
    markers = [float(place) for place in re.findall(r'<use href="#p-[^"]*" x="([\d.]+)"', svg)]
    assert min(abs(marker - x) for marker in markers) < 0.1


def test_a_line_without_values_and_a_profile_without_lines_are_no_error():
    for record in (made(3), made(0), made(3, a=(None, None, None)), made(1, logarithmic=True, a=(0.0,))):
        assert draw_profile(record, "p").startswith("<svg")
        assert len(profile_rows(record)) == len(record.places)
    assert "a: no values." in profile_words(made(2, a=(None, None)))
    assert profile_takeaway(made(2, a=(None, None))) == ""


def test_zero_has_a_place_of_its_own_on_a_logarithmic_axis():
    axis = log_axis([0.0, 0.02, 3000.0, math.nan])
    assert list(axis.ticks.values()) == ["0", "0.1", "1", "10", "100", "1000"]
    assert axis.low < axis.place(0.0) < axis.place(0.02) < axis.place(3000.0) < axis.high
    assert math.isnan(axis.place(math.nan))
    assert axis.ticks[axis.place(0.0)] == "0"
    assert axis.place(-2.0) == axis.place(0.0)
    assert "≤ 0" in log_axis([-1.0, 1.0, 10.0]).ticks.values()


@pytest.mark.parametrize("values", [[1.0], [0.0], [], [5e-324, 1e308], [2.0, 2.1], [1.0, 10.0], [-1.0], [3.0, 80.0]])
def test_a_logarithmic_axis_has_few_ticks_inside_it(values):
    axis = log_axis(values)
    assert axis.low < axis.high
    assert 1 <= len(axis.ticks) <= 12
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)
    assert all(axis.low <= axis.place(value) <= axis.high for value in values)
    assert len(set(axis.ticks.values())) == len(axis.ticks)


def test_ticks_of_a_logarithmic_axis_stand_at_their_values():
    for values in ([2.0, 90.0], [1e-3, 1e3]):
        assert all(float(text) == pytest.approx(10**tick) for tick, text in log_axis(values).ticks.items())
    assert list(log_axis([2.0, 90.0]).ticks.values()) == ["2", "5", "10", "20", "50"]
    assert log_axis([1e-12, 1.0]).ticks[-12.0] == "10⁻¹²"


def test_the_words_tell_both_ends_and_the_extremes():
    record = made(4, clean=(3.0, None, 0.0, 12345.6))
    assert profile_words(record) == (
        "activation, at 4 places (layers). clean: from 3 at layer0 (1) to 12350 at layer3 (4); "
        "least 0 at layer2 (3); largest 12350 at layer3 (4)."
    )
    assert profile_takeaway(record) == "Largest values: clean 12350 at layer3 (4)."


def test_the_table_has_every_value_and_the_key_of_the_numbers():
    rows = profile_rows(made(3, a=(0.123456, None, 7.0), b=(1.0,)))
    assert rows == [(1, "layer0", ("0.1235", "1")), (2, "layer1", ("", "")), (3, "layer2", ("7", ""))]


def test_the_page_shows_figure_legend_and_sentence(result, arrays):
    page = render_html(result, arrays, layout="single").html
    for name in ("clean images", "attacked images"):
        assert page.count(f"</svg> {name}</li>") == 2
    assert "Largest values: clean images 6.933 at layer2.2.relu1 (12)" in page
    assert page.count("The scale is logarithmic.") == 1
    assert page.count("The table has the names of the numbered places.") == 1
    assert '<td class="number">150</td><th scope="row">layer25.2.relu1</th>' in page
