"""One signature binds model, data and result: sign the statement with tools that are everywhere, then change a byte."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from auditkit import audit
from auditkit.cli import cli
from auditkit.errors import UsageError
from auditkit.testing import LinearModel, toy_samples
from auditkit.verification import evidence_digests, verify

EVIDENCE = ("result.json", "samples.npz", "exhibits.npz")


def auditkit(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [str(each) for each in arguments], standalone_mode=False)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return int(done.return_value or 0), done.output


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model.pt`, an audit of it in `audit`, and its `statement.json`."""
    folder = tmp_path_factory.mktemp("audited")
    network = LinearModel().eval()
    samples = toy_samples(20, network=network)
    torch.jit.trace(network, samples.images[:2]).save(folder / "model.pt")
    audit(
        folder / "model.pt",
        (samples.images.numpy(), samples.labels.numpy()),
        checks=["noise.uniform"],
        gates=["noise.uniform/robust_accuracy >= 0.1"],
        out=folder / "audit",
    )
    auditkit("report", folder / "audit", "--format", "in-toto", "--out", folder / "statement.json")
    return folder


@pytest.fixture
def signed(audited: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(audited, tmp_path / "copy"))


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def change_statement(folder: Path, change) -> Path:
    file = folder / "statement.json"
    statement = json.loads(file.read_text(encoding="utf-8"))
    change(statement)
    file.write_text(json.dumps(statement), encoding="utf-8")
    return file


def test_the_statement_names_the_model_first_and_then_every_file_of_the_evidence(audited: Path) -> None:
    statement = json.loads((audited / "statement.json").read_text(encoding="utf-8"))
    assert [subject["name"] for subject in statement["subject"]] == ["model.pt", *EVIDENCE]


def test_untouched_files_are_the_same_and_exit_with_0(signed: Path) -> None:
    code, output = auditkit("verify", signed / "statement.json", signed / "audit", "--model", signed / "model.pt")
    assert code == 0
    assert output.splitlines() == [f"same: {name}" for name in (*EVIDENCE, "model.pt")]
    assert auditkit("verify", signed / "statement.json", signed / "audit" / "result.json")[0] == 0


@pytest.mark.parametrize("name", [*EVIDENCE, "model.pt"])
def test_one_changed_byte_of_any_file_is_a_mismatch_of_one_line_and_exits_with_1(signed: Path, name: str) -> None:
    flip_a_byte(signed / name if name == "model.pt" else signed / "audit" / name)
    code, output = auditkit("verify", signed / "statement.json", signed / "audit", "--model", signed / "model.pt")
    assert code == 1
    (line,) = (line for line in output.splitlines() if line.startswith("MISMATCH"))
    assert line.startswith(f"MISMATCH: {name}: its sha256 is ")
    assert len([line for line in output.splitlines() if line.startswith("same")]) == 3


def test_a_file_that_is_gone_and_one_that_was_put_beside_are_mismatches(signed: Path) -> None:
    (signed / "audit" / "samples.npz").rename(signed / "audit" / "matches.npz")
    assert verify(signed / "statement.json", signed / "audit").mismatches == (
        "samples.npz: the statement names it, and it is missing",
        "matches.npz: it lies beside the result, and the statement does not name it",
    )


def test_a_statement_that_binds_the_model_only_verifies_no_result(signed: Path) -> None:
    file = change_statement(signed, lambda statement: statement.update(subject=statement["subject"][:1]))
    mismatches = verify(file, signed / "audit", signed / "model.pt").mismatches
    assert [line.split(":")[0] for line in mismatches] == list(EVIDENCE)


def test_a_statement_about_another_model_or_other_images_than_its_result_is_a_mismatch(signed: Path) -> None:
    def swap(statement):
        statement["subject"][0]["digest"] = {"sha256": "0" * 64}
        statement["predicate"]["configuration"][1]["digest"] = {"auditkitSamples": "1" * 64}

    assert verify(change_statement(signed, swap), signed / "audit").mismatches == (
        "result.json: the statement is about another model than this result",
        "result.json: the statement is about other images than this result",
    )


def test_a_subject_that_is_no_file_of_an_audit_is_a_mismatch_and_no_file_is_opened(signed: Path) -> None:
    more = {"name": "../../model.pt", "digest": {"sha256": "0" * 64}}
    file = change_statement(signed, lambda statement: statement["subject"].append(more))
    assert verify(file, signed / "audit").mismatches == (
        "'../../model.pt' is in the statement, and no file of an audit",
    )


def test_a_network_in_memory_has_no_file_that_could_be_compared(signed: Path) -> None:
    in_memory = {"auditkitNetwork": "0" * 64}
    file = change_statement(signed, lambda statement: statement["subject"][0].update(digest=in_memory))
    (_, line) = verify(file, signed / "audit", signed / "model.pt").mismatches
    assert "a network in memory ('model.pt'), which has no file to compare" in line


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "as a whole"),
        (b"[]", "as a whole"),
        (b"[" * 100_000, "as a whole"),
        (b'{"_type": "https://example.com"}', "_type"),
        (b'{"_type": "https://in-toto.io/Statement/v1", "subject": []}', "subject"),
    ],
)
def test_what_is_no_statement_is_refused_in_one_line(signed: Path, content: bytes, wanted: str) -> None:
    (signed / "statement.json").write_bytes(content)
    with pytest.raises(UsageError, match=f"no in-toto statement of an audit .{wanted}"):
        verify(signed / "statement.json", signed / "audit")


def test_a_digest_that_is_none_and_a_file_named_twice_are_refused(signed: Path) -> None:
    file = change_statement(signed, lambda statement: statement["subject"].append(statement["subject"][1]))
    with pytest.raises(UsageError, match="names a file twice"):
        verify(file, signed / "audit")
    file = change_statement(signed, lambda statement: statement["subject"][2]["digest"].update(sha256="\x1b[2J"))
    with pytest.raises(UsageError, match="no in-toto statement"):
        verify(file, signed / "audit")


@pytest.mark.parametrize("missing", ["statement.json", "audit", "model.pt"])
def test_a_path_that_leads_nowhere_is_named_and_is_no_mismatch(signed: Path, missing: str) -> None:
    (signed / missing).rename(signed / "elsewhere")
    with pytest.raises(UsageError, match=missing):
        verify(signed / "statement.json", signed / "audit", signed / "model.pt")


def test_the_external_data_of_an_onnx_graph_count_as_the_model(signed: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(torch.rand(64, 64).numpy(), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in ("x", "y")]
    graph = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], [weight]))
    model = signed / "model.onnx"
    onnx.save(graph, model, save_as_external_data=True, location="weights.bin", size_threshold=0)
    from auditkit.models.loaded import digest_files

    both = {"sha256": digest_files([model, signed / "weights.bin"])}
    file = change_statement(signed, lambda statement: statement["subject"][0].update(digest=both))
    assert "model.onnx" in verify(file, signed / "audit", model).same
    flip_a_byte(signed / "weights.bin")
    assert any(line.startswith("model.onnx") for line in verify(file, signed / "audit", model).mismatches)


def test_verifying_loads_no_network_and_no_torch() -> None:
    code = "import auditkit.verification, sys; print(*sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def openssl(folder: Path) -> list[list[str]]:
    key, public, signature = (str(folder / name) for name in ("key.pem", "public.pem", "statement.sig"))
    statement = str(folder / "statement.json")
    made = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key]
    return [
        made,
        ["openssl", "pkey", "-in", key, "-pubout", "-out", public],
        ["openssl", "dgst", "-sha256", "-sign", key, "-out", signature, statement],
        ["openssl", "dgst", "-sha256", "-verify", public, "-signature", signature, statement],
    ]


def ssh(folder: Path) -> list[list[str]]:
    key, statement = str(folder / "key"), folder / "statement.json"
    signers = folder / "allowed_signers"
    verifying = f"ssh-keygen -Y verify -f {signers} -I auditor@example.com -n auditkit -s {statement}.sig < {statement}"
    return [
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key],
        ["bash", "-c", f'echo "auditor@example.com $(cat {key}.pub)" > {signers}'],
        ["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", "auditkit", str(statement)],
        ["bash", "-c", verifying],
    ]


@pytest.mark.parametrize("tool", [openssl, ssh])
def test_a_signature_over_the_statement_holds_until_a_byte_of_it_changes(signed: Path, tool) -> None:
    *making, verifying = tool(signed)
    if shutil.which(making[0][0]) is None:
        pytest.skip(f"{making[0][0]} is not installed")
    for command in making:
        subprocess.run(command, check=True, capture_output=True)
    assert subprocess.run(verifying, capture_output=True).returncode == 0
    # The digest of the table in the statement is changed to that of another table: the files agree, the signature not.
    flip_a_byte(signed / "audit" / "samples.npz")
    other = {"sha256": evidence_digests(signed / "audit")["samples.npz"]}
    file = change_statement(signed, lambda statement: statement["subject"][2].update(digest=other))
    assert verify(file, signed / "audit").mismatches == ()
    assert subprocess.run(verifying, capture_output=True).returncode != 0
