"""The plugin for pytest: a fixture that audits, a marker whose gates must pass, and nothing loaded before that."""

from __future__ import annotations

import matplotlib
import pytest

import auditkit
from auditkit.testing import LinearModel, toy_samples

pytest_plugins = ["pytester"]

# By the name of its module, and not by that of its entry point: so it is the same before and after an installation.
PLUGIN = (
    *("-p", "auditkit.pytest_plugin", "-p", "no:auditkit", "-p", "no:cacheprovider", "-q"),
    # The pytest that runs this test may have imported the plugin already.
    *("-W", "error", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
)

CONFTEST = """
    import pytest
    from auditkit.testing import LinearModel, toy_samples

    class Detached(LinearModel):
        def forward(self, images):
            return super().forward(images.detach())

    @pytest.fixture
    def model():
        return LinearModel()

    @pytest.fixture
    def detached():
        return Detached()

    @pytest.fixture
    def data():
        samples = toy_samples(40, network=LinearModel(), wrong_every=41)
        return samples.images, samples.labels
"""

CHECKS = ("noise.gaussian", "noise.uniform")


@pytest.fixture(scope="module", autouse=True)
def loaded(tmp_path_factory):
    """Load what an audit loads: pytester unloads what a test within a test imports, and torch loads only once."""
    samples = toy_samples(8)
    out = tmp_path_factory.mktemp("loaded") / "audit"
    auditkit.audit(LinearModel(), (samples.images, samples.labels), checks=CHECKS, out=out)


@pytest.fixture
def outcome(pytester, monkeypatch):
    """Run pytest on a file, beside fixtures `model` and `data`: the model is right on all of 40 images."""
    pytester.makeconftest(CONFTEST)
    # On a CI machine pytest's summary repeats whole messages.
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    # To draw the figures of a report takes longer than all the rest.
    monkeypatch.setattr(
        "auditkit.auditing.write_html", lambda result, arrays, path, templates: path.write_text("the report")
    )

    def run(source, *words):
        pytester.makepyfile(source)
        return pytester.runpytest_inprocess(*PLUGIN, "--basetemp=made", *words)

    return run


def test_that_the_test_itself_runs_after_gates_that_pass(outcome):
    done = outcome(
        """
        import json
        import pytest

        @pytest.mark.audit(gate={"require": "noise.gaussian/clean_accuracy < 0.5", "level": "warn"})
        def test_warned(model, data): pass

        @pytest.mark.audit(gate=["noise.gaussian/clean_accuracy >= 90%", "noise.uniform/clean_accuracy > 0.5"])
        def test_several(model, data, tmp_path):
            result = json.loads((tmp_path / "audit" / "result.json").read_text())
            assert [check["key"] for check in result["checks"]] == ["noise.gaussian", "noise.uniform"]
            assert [gate["verdict"] for gate in result["gates"]] == ["pass", "pass"]
            raise ValueError("the test itself was run")
        """
    )
    done.assert_outcomes(failed=1, passed=1)
    done.stdout.fnmatch_lines(["*ValueError: the test itself was run"])


def test_that_a_gate_that_fails_or_is_in_doubt_fails_the_test_with_its_text(outcome, pytester):
    done = outcome(
        """
        import pytest

        def never(): raise ValueError("the test itself was run")

        @pytest.mark.audit(gate=["noise.gaussian/clean_accuracy <= 0.5", "noise.gaussian/clean_accuracy >= 0.5"])
        def test_fail(model, data): never()

        @pytest.mark.audit(gate="noise.gaussian/clean_accuracy >= 0.95")
        def test_inconclusive(model, data): never()

        class TestDetached:
            @pytest.fixture
            def model(self, detached): return detached

            @pytest.mark.audit(gate="noise.pgd/clean_accuracy >= 0.5")
            def test_missing(self, model, data): never()
        """
    )
    done.assert_outcomes(failed=3)
    text = done.stdout.str()
    assert "the test itself was run" not in text
    assert "pytest_plugin.py" not in text, "a traceback through the plugin helps nobody"
    found = "1, interval 0.9119 to 1 on 40 images"
    done.stdout.fnmatch_lines(
        [
            "FAIL: 1 of 2 requirements is not met",
            "fail: noise.gaussian/clean_accuracy <= 0.5: the whole interval misses the requirement "
            f"({found}; required <= 0.5)",
            f"report: {pytester.path}/made/test_fail0/audit/report.html",
            "INCONCLUSIVE: *",
            "inconclusive: noise.gaussian/clean_accuracy >= 0.95: the interval straddles the threshold "
            f"({found}; required >= 0.95); about * images would settle it",
            "missing: noise.pgd/clean_accuracy >= 0.5: noise.pgd was skipped: *",
        ]
    )
    assert text.count("clean_accuracy >= 0.5: ") == 1, "a gate that passes needs no words"
    assert (pytester.path / "made" / "test_fail0" / "audit" / "report.html").is_file()


def test_that_a_check_that_crashed_fails_the_test_whatever_the_gates_say(outcome):
    done = outcome(
        """
        import pytest

        @pytest.fixture
        def broken(monkeypatch):
            def step(*_): raise ZeroDivisionError("no noise today")
            monkeypatch.setattr("auditkit_plugins.random_noise.UniformNoise.step", step)

        @pytest.mark.audit(
            gate="noise.gaussian/clean_accuracy >= 0.5", checks=["noise.gaussian", "noise.uniform"]
        )
        def test_both(broken, model, data): pass
        """
    )
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        [
            "INCOMPLETE: the requirement is met, but 1 check failed to run",
            "noise.uniform failed: ZeroDivisionError: no noise today*",
            "report: *",
        ]
    )


def test_that_every_marker_is_an_audit_of_its_own(outcome):
    """The nearer does not hide the farther, be it on the function, the class or the module."""
    done = outcome(
        """
        import pytest

        met = pytest.mark.audit(gate="noise.gaussian/clean_accuracy >= 0.5")
        missed = pytest.mark.audit(gate="noise.gaussian/clean_accuracy <= 0.5")

        @missed
        @met
        def test_nearer_is_met(model, data): pass

        @missed
        class TestClass:
            @met
            def test_function(self, model, data): pass

        @met
        @met
        def test_both_are_met(model, data, tmp_path):
            assert {path.name for path in tmp_path.iterdir()} == {"audit", "audit-2"}
        """
    )
    done.assert_outcomes(failed=2, passed=1)


def test_that_the_marker_goes_before_the_fixtures_and_takes_all_settings(outcome):
    done = outcome(
        """
        import json
        import pytest
        from auditkit.testing import LinearModel, toy_samples

        other = toy_samples(7, seed=1, network=LinearModel(seed=1))

        @pytest.mark.audit(
            gate="noise.gaussian/clean_accuracy >= 0.1",
            model=LinearModel(seed=1),
            data=(other.images, other.labels),
            checks=["noise.gaussian", "noise.uniform"],
            options={"noise.gaussian": {"draws": 2}},
            limit=5,
            out="evidence",
        )
        def test_other(model, data, pytestconfig):
            result = json.loads((pytestconfig.rootpath / "evidence" / "result.json").read_text())
            assert result["samples"]["n"] == 5
            (gaussian,) = [check for check in result["checks"] if check["key"] == "noise.gaussian"]
            assert gaussian["options"]["draws"] == 2
            assert len(result["checks"]) == 2
        """
    )
    done.assert_outcomes(passed=1)


WRONG = {
    "": 'the marker audit wants gate="check/metric >= number", or a list of several requirements; got gate=None',
    "gate=[]": "*; got gate=[[]]",
    "gate=0.4": "*; got gate=0.4",
    "gates=[GATE]": "*; got gates=[[]'noise.gaussian/clean_accuracy >= 0.5']",
    "gate=GATE, gates=[GATE]": "*; got gates=[[]'noise.gaussian/clean_accuracy >= 0.5']",
    "GATE": "the marker audit takes names only, such as gate=...; got 'noise.gaussian/clean_accuracy >= 0.5'",
    "gate='robust >= 0.4'": "a gate reads \"check/metric >= number\", *; got 'robust >= 0.4'",
    "gate=GATE, chekcs=['noise.gaussian']": "there is no setting 'chekcs'; did you mean checks?",
    "gate=GATE, checks=['noise.uniform']": "the gate noise.gaussian/* names a check that will not run*",
    "gate='noise.gausian/clean_accuracy >= 0.5'": "there is no check 'noise.gausian'; did you mean noise.gaussian?",
}


def test_that_a_marker_that_asks_for_nothing_possible_fails_in_one_line(outcome):
    tests = [
        f"@pytest.mark.audit({words})\ndef test_{number}(model, data): pass\n" for number, words in enumerate(WRONG)
    ]
    tests.append("@pytest.mark.audit(gate=GATE)\ndef test_no_data(model): pass\n")
    tests.append("@pytest.mark.audit(gate=GATE, data='nowhere')\ndef test_no_model(): pass\n")
    head = "import pytest\nGATE = 'noise.gaussian/clean_accuracy >= 0.5'\n\n"
    done = outcome(head + "\n".join(tests), "--tb=short", "--strict-markers")
    done.assert_outcomes(failed=len(tests))
    wanted = [
        *WRONG.values(),
        "the marker audit has no data=..., and the test takes no fixture named data",
        "the marker audit has no model=..., and the test takes no fixture named model",
    ]
    done.stdout.fnmatch_lines([f"auditkit: {line}" for line in wanted])
    assert done.stdout.str().count("\nauditkit: ") == len(wanted)
    assert "Error" not in done.stdout.str().partition("short test summary")[0]


def test_that_the_marker_goes_with_what_else_pytest_has(outcome):
    done = outcome(
        """
        import unittest
        import pytest

        missed = pytest.mark.audit(gate="noise.gaussian/clean_accuracy <= 0.5")

        @pytest.mark.xfail(strict=True)
        @missed
        def test_xfail(model, data): pass

        @pytest.mark.skip
        @missed
        def test_skipped(): pass

        @pytest.mark.parametrize("case", [1, pytest.param(2, marks=missed)])
        def test_case(case, model, data): pass

        @pytest.mark.usefixtures("model", "data")
        class Old(unittest.TestCase):
            @missed
            def test_missed(self): pass
        """
    )
    done.assert_outcomes(xfailed=1, skipped=1, passed=1, failed=2)


def test_that_the_fixture_audits_and_judges_nothing_by_itself(outcome):
    done = outcome(
        """
        import pytest
        import auditkit

        CHECKS = ["noise.gaussian"]

        def test_result(audit, model, data, tmp_path):
            result = audit(model, data, checks=CHECKS, gates=["noise.gaussian/clean_accuracy <= 0.5"])
            assert isinstance(result, auditkit.AuditResult)
            assert result.verdict is auditkit.Verdict.FAIL
            assert result.metric("noise.gaussian/clean_accuracy").value == 1
            assert (tmp_path / "audit" / "report.html").is_file()

        def test_folders(audit, model, data, tmp_path):
            first = audit(model, data, checks=CHECKS)
            second = audit(model, data, checks=CHECKS, limit=3)
            assert [result.result.samples.n for result in (first, second)] == [40, 3]
            assert {path.name for path in tmp_path.iterdir()} == {"audit", "audit-2"}

        def test_error(audit, model, data, tmp_path):
            with pytest.raises(auditkit.UsageError, match="did you mean noise.gaussian"):
                audit(model, data, checks=["noise.gausian"])
            assert list(tmp_path.iterdir()) == []
        """
    )
    done.assert_outcomes(passed=3)


def test_that_the_marker_is_explained(outcome):
    outcome("", "--markers").stdout.fnmatch_lines(["@pytest.mark.audit(gate, model, data, checks, [*][*]settings): *"])


def test_that_nothing_heavy_is_loaded_before_a_test_asks_and_nothing_written_elsewhere(pytester, monkeypatch):
    for name in ("home", "tmp", "made"):
        pytester.mkdir(name)
    monkeypatch.setenv("HOME", str(pytester.path / "home"))
    monkeypatch.setenv("TMPDIR", str(pytester.path / "tmp"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # matplotlib keeps its list of fonts for all programs, and takes long to make it.
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())
    pytester.makepyfile(
        """
        import sys
        import pytest

        HEAVY = {"torch", "numpy", "onnx", "onnxruntime", "matplotlib", "scipy", "pydantic", "PIL"}
        NETWORK = "auditkit.testing:LinearModel"

        def test_before():
            assert "auditkit.pytest_plugin" in sys.modules
            assert HEAVY.isdisjoint(sys.modules)

        def test_fixture_alone(audit):
            assert HEAVY.isdisjoint(sys.modules)

        @pytest.mark.skip
        @pytest.mark.audit(gate="noise.gaussian/clean_accuracy >= 0.1", model=NETWORK, data="images.py:images")
        def test_skipped(): pass

        def test_still():
            assert HEAVY.isdisjoint(sys.modules)

        @pytest.mark.audit(gate="noise.gaussian/clean_accuracy >= 0.1", model=NETWORK, data="images.py:images")
        def test_asks():
            assert "torch" in sys.modules
        """
    )
    pytester.makepyfile(
        images="""
        def images():
            from auditkit.testing import LinearModel, toy_samples
            samples = toy_samples(40, network=LinearModel())
            return samples.images, samples.labels
        """
    )
    before = elsewhere(pytester)
    done = pytester.runpytest_subprocess(*PLUGIN, "--basetemp=made/temp", timeout=120)
    done.assert_outcomes(passed=4, skipped=1)
    assert (pytester.path / "made" / "temp" / "test_asks0" / "audit" / "report.html").is_file()
    # These two are where pytester itself writes what was printed, and its own --basetemp, which goes before ours.
    assert {path for path in elsewhere(pytester) - before if not path.startswith("runpytest")} == {"stdout", "stderr"}


def elsewhere(pytester):
    """Return all paths in the folder of a test but those below `made`."""
    paths = (path.relative_to(pytester.path) for path in pytester.path.rglob("*"))
    return {str(path) for path in paths if path.parts[0] != "made"}
