"""The files for CI systems do what they say: run as the shell scripts that they are, on the demo's network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
import yaml
from scipy import stats

from auditkit import ExitCode
from auditkit.cli import cli
from auditkit.demo import IMAGES, WEIGHTS
from auditkit.stats import proportion

ROOT = Path(__file__).parents[1]
CI = ROOT / "examples" / "ci"
# The tests also run beside an installed wheel.
if not CI.is_dir():
    pytest.skip("the files for CI are not here", allow_module_level=True)

BIN = Path(sys.executable).parent
PROGRAM = Path(__file__).parent / "helpers" / "warm_program.py"
SCRIPT = CI / "github" / "audit.sh"
MODEL = "auditkit.demo.network:SignNet"
ARGUMENTS = (f"--weights={WEIGHTS}", "--checks=noise.gaussian", "--preset=smoke", "--limit=40", "--quiet")
MET = "noise.gaussian/clean_accuracy >= 50%"
NOT_MET = "noise.gaussian/clean_accuracy < 50%"
UNDECIDED = "noise.gaussian/clean_accuracy >= 98%"
CONFIG = f"""
model = "{MODEL}"
weights = "{WEIGHTS}"
data = "{IMAGES}"
checks = ["noise.gaussian"]
preset = "smoke"
limit = 40
"""
# Each would leave a file behind if a shell came to read it.
ATTEMPTS = (
    '"; touch pwned; "',
    "'; touch pwned; '",
    "$(touch pwned)",
    "`touch pwned`",
    "a\n; touch pwned #",
    "| touch pwned",
    "--help",
)


@dataclass(frozen=True)
class Ran:
    code: int
    log: str
    outputs: dict[str, str]
    summary: str


def environment(**variables: str) -> dict[str, str]:
    inherited = {
        name: text for name, text in os.environ.items() if not name.startswith(("AUDIT", "CI", "GITHUB", "INPUT"))
    }
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return inherited | {"PATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"} | variables


def run(command: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(**variables),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


def stub(folder: Path, body: str) -> str:
    """Write a program `auditkit` of which only the body is known, and return a PATH that has it first."""
    program = folder / "bin" / "auditkit"
    program.parent.mkdir()
    program.write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"


def document(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def act(folder: Path, **variables: str) -> Ran:
    """Run the Action's script as a runner does."""
    outputs, summary = folder / "github-output", folder / "github-summary"
    for file in (outputs, summary):
        file.write_text("", encoding="utf-8")
    done = run(["bash", str(SCRIPT)], folder, GITHUB_OUTPUT=str(outputs), GITHUB_STEP_SUMMARY=str(summary), **variables)
    lines = outputs.read_text(encoding="utf-8").splitlines()
    named = dict(line.split("=", 1) for line in lines)
    assert len(named) == len(lines), "an output was set twice"
    return Ran(done.returncode, done.stdout, named, summary.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A PATH on which `auditkit` is the program under test, without the seconds that each start would take."""
    folder = tmp_path_factory.mktemp("warm")
    address = str(folder / "socket")
    server = subprocess.Popen(
        [sys.executable, str(PROGRAM), address], env=environment(), stdout=subprocess.PIPE, text=True
    )
    with server:
        assert server.stdout.readline() == "ready\n"
        yield stub(folder, f'exec "{sys.executable}" -S -E "{PROGRAM}" "{address}" -- "$@"')
        server.kill()


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A folder in which the Action's script has run, and the gate was met."""
    folder = tmp_path_factory.mktemp("audited")
    return folder, act(folder, **INPUTS, INPUT_GATES=f"\n{MET}\n")


INPUTS = {"INPUT_MODEL": MODEL, "INPUT_DATA": str(IMAGES), "INPUT_ARGUMENTS": "\n".join(ARGUMENTS) + "\n"}


@pytest.fixture
def again(audited, tmp_path):
    """A copy of that folder: what was measured there is not measured again."""
    shutil.copytree(audited[0] / "audit", tmp_path / "audit")
    return tmp_path


def test_that_a_met_gate_leaves_a_green_step_with_all_outputs(audited):
    folder, ran = audited
    assert ran.code == 0, ran.log
    assert ran.outputs == {
        "exit-code": "0",
        "report": "audit/report.html",
        "sarif": "audit/auditkit.sarif",
        "junit": "audit/junit.xml",
        "result": "audit/result.json",
    }
    assert json.loads((folder / ran.outputs["sarif"]).read_text(encoding="utf-8"))["version"] == "2.1.0"
    assert ran.summary == (folder / "audit" / "summary.md").read_text(encoding="utf-8")
    assert "pass" in ran.summary.lower()


def test_that_a_gate_that_is_not_met_fails_the_step_after_its_outputs_are_written(again, warm):
    ran = act(again, PATH=warm, **INPUTS, INPUT_GATES=f"{MET}\n\n{NOT_MET}")
    assert ran.code == ExitCode.FAIL, ran.log
    assert ran.outputs["exit-code"] == "1"
    assert set(ran.outputs) == {"exit-code", "report", "sarif", "junit", "result"}
    assert "fail" in ran.summary.lower()


def test_that_an_audit_that_did_not_start_publishes_nothing_of_an_earlier_one(again, warm):
    ran = act(again, PATH=warm, **INPUTS, INPUT_GATES="noise.gaussian/robust >=")
    assert ran.code == ExitCode.USAGE, ran.log
    assert ran.outputs == {"exit-code": "2"}
    assert ran.summary == "auditkit ended with exit code 2 before there was a result. The log says why.\n"


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_that_no_input_is_run(tmp_path, attempt):
    path = stub(tmp_path, "printf '%s\\n' \"$@\" > arguments\nexit 2")
    names = ("MODEL", "DATA", "GATES", "WARNINGS", "BASELINE", "PRESET", "CONFIG", "ARGUMENTS")
    ran = act(tmp_path, PATH=path, **{f"INPUT_{name}": attempt for name in names})
    assert ran.code == 2, ran.log
    assert not (tmp_path / "pwned").exists()
    wanted = ["run", "--out=audit"]
    wanted += [f"{option}={attempt}" for option in ("--data", "--preset", "--config", "--baseline")]
    wanted += [f"{option}{line}" for option in ("--gate=", "--warn=", "") for line in attempt.split("\n")]
    wanted += ["--", attempt]
    assert (tmp_path / "arguments").read_text(encoding="utf-8") == "\n".join(wanted) + "\n"


@pytest.mark.parametrize("out", [*ATTEMPTS, "a\nexit-code=0"])
def test_that_no_name_of_a_folder_is_run_or_becomes_an_output(tmp_path, out):
    path = stub(
        tmp_path, 'for argument; do case "$argument" in --out=*) mkdir -p "${argument#--out=}";; esac; done; exit 3'
    )
    ran = act(tmp_path, PATH=path, INPUT_OUT=out)
    assert ran.code == (2 if "\n" in out else 3), ran.log
    assert ran.outputs.get("exit-code", "3") == "3"
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("code", [0, 1, 3, 4, 5, 130])
def test_that_the_step_ends_with_the_exit_code_of_the_audit(tmp_path, code):
    path = stub(tmp_path, f'[ "$1" = report ] && exit 0; mkdir -p audit; echo "{{}}" > audit/result.json; exit {code}')
    ran = act(tmp_path, PATH=path)
    assert (ran.code, ran.outputs["exit-code"]) == (code, str(code)), ran.log


def test_that_a_report_that_cannot_be_made_is_no_green_step(tmp_path):
    path = stub(tmp_path, '[ "$1" = report ] && exit 3; mkdir -p audit; echo "{}" > audit/result.json')
    assert act(tmp_path, PATH=path).code == 3


def test_that_the_runner_obeys_no_line_that_the_audit_prints(tmp_path):
    path = stub(tmp_path, 'echo "::add-mask::e"; echo "::error::file name" >&2; exit 1')
    first, *said, last = act(tmp_path, PATH=path).log.splitlines()
    token = first.removeprefix("::stop-commands::")
    assert re.fullmatch("[0-9a-f]{32}", token)
    assert said == ["::add-mask::e", "::error::file name"]
    assert last == f"::{token}::"


def test_that_a_summary_that_github_would_refuse_is_cut(tmp_path):
    path = stub(tmp_path, "mkdir -p audit; head -c 3000000 /dev/zero | tr '\\0' x > audit/summary.md")
    assert len(act(tmp_path, PATH=path).summary) == 1_000_000


def test_that_the_action_hands_every_input_to_its_script_and_none_to_a_shell():
    action = document(ROOT / "action.yml")
    assert action["runs"]["using"] == "composite"
    steps = action["runs"]["steps"]
    assert all("${{" not in step["run"] and step["shell"] == "bash" for step in steps)
    script = SCRIPT.read_text(encoding="utf-8")
    given = {f"INPUT_{name.upper()}": f"${{{{ inputs.{name} }}}}" for name in action["inputs"]}
    assert steps[-1]["env"] == given
    assert [name for name in given if f"${{{name}:-" not in script] == []
    assert "${{" not in script
    written = {"exit-code", *re.findall(r"^publish (\S+)", script, re.MULTILINE)}
    assert {name: output["value"] for name, output in action["outputs"].items()} == {
        name: f"${{{{ steps.{steps[-1]['id']}.outputs.{name} }}}}" for name in written
    }
    assert all(entry["description"] for part in ("inputs", "outputs") for entry in action[part].values())


def test_that_the_workflow_asks_the_action_for_what_it_has():
    workflow, action = document(CI / "github" / "workflow.yml"), document(ROOT / "action.yml")
    steps = workflow["jobs"]["audit"]["steps"]
    assert workflow["permissions"]["security-events"] == "write"
    (audit,) = (step for step in steps if "OWNER/auditkit" in step.get("uses", ""))
    assert set(audit.get("with", {})) <= set(action["inputs"])
    text = (CI / "github" / "workflow.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"steps\.audit\.outputs\.([\w-]+)", text)) <= set(action["outputs"])
    assert all("${{" not in step["run"] for step in steps if "run" in step)
    uploads = [step for step in steps if "upload" in step.get("uses", "")]
    assert len(uploads) == 2
    assert all(step["if"].startswith("always()") for step in uploads)


def test_that_the_workflow_compares_with_the_baseline_that_it_keeps(audited, warm, tmp_path):
    folder, _ = audited
    steps = {step.get("name"): step for step in document(CI / "github" / "workflow.yml")["jobs"]["audit"]["steps"]}
    shutil.copytree(folder / "audit", tmp_path / "audit")
    keep = steps["Make it the baseline of the next pull requests"]["run"]
    assert run(["bash", "-e", "-c", keep], tmp_path).returncode == 0
    compare = steps["Compare with main"]["run"]
    # Forty images cannot show that less than 5 % were lost.
    done = run(
        ["bash", "-e", "-c", compare.replace("noise.pgd", "noise.gaussian").replace("5%", "20%")], tmp_path, PATH=warm
    )
    assert done.returncode == 0, done.stdout


def gitlab_job() -> dict:
    return document(CI / "gitlab" / "auditkit.gitlab-ci.yml")[".auditkit"]


def gitlab(folder: Path, part: str, shell: str = "bash", **variables: str) -> subprocess.CompletedProcess[str]:
    defaults = {name: str(text) for name, text in gitlab_job()["variables"].items()}
    # The runner joins the lines of a script and stops at the first that fails.
    return run([shell, "-e", "-c", "\n".join(gitlab_job()[part])], folder, **defaults | variables)


def test_that_the_gitlab_job_ends_with_the_exit_code_and_leaves_its_artifacts(again, warm):
    given = {"AUDIT_MODEL": MODEL, "AUDIT_DATA": str(IMAGES), "AUDIT_ARGUMENTS": "\n".join(ARGUMENTS) + "\n"}
    done = gitlab(again, "script", "sh", PATH=warm, **given, AUDIT_GATES=f"{MET}\n{NOT_MET}\n")
    assert done.returncode == ExitCode.FAIL, done.stdout
    artifacts = gitlab_job()["artifacts"]
    assert artifacts["when"] == "always"
    assert all((again / path).is_file() for path in artifacts["paths"])
    suites = ElementTree.parse(again / artifacts["reports"]["junit"])  # noqa: S314 (just written)
    assert len(suites.findall(".//failure")) == 1


def test_that_the_gitlab_job_shows_no_report_of_an_earlier_one(again):
    done = gitlab(again, "script", PATH=stub(again, "exit 3"))
    assert done.returncode == 3, done.stdout
    assert not any((again / "audit" / name).exists() for name in ("report.html", "junit.xml", "summary.md"))


@pytest.mark.parametrize("attempt", [*ATTEMPTS, "END_OF_GATES\ntouch pwned"])
@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_that_no_variable_of_the_gitlab_job_is_run(tmp_path, attempt, shell):
    path = stub(tmp_path, "printf '%s\\n' \"$@\" > arguments")
    names = ("AUDIT_MODEL", "AUDIT_DATA", "AUDIT_GATES", "AUDIT_ARGUMENTS")
    done = gitlab(tmp_path, "script", shell, PATH=path, **dict.fromkeys(names, attempt))
    assert done.returncode == 0, done.stdout
    assert not (tmp_path / "pwned").exists()
    wanted = ["run", "--out=audit", f"--data={attempt}"]
    wanted += [f"{option}{line}" for option in ("--gate=", "") for line in attempt.split("\n")]
    wanted += ["--", attempt]
    assert (tmp_path / "arguments").read_text(encoding="utf-8") == "\n".join(wanted) + "\n"


@pytest.fixture
def notes():
    """Stand in for the interface of GitLab: (path, headers, form) of each note that it was sent."""
    received = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            received.append((self.path, self.headers, urllib.parse.parse_qs(body)))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api/v4", received
        server.shutdown()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_that_the_summary_becomes_a_note_only_where_there_is_a_token(tmp_path, notes):
    address, received = notes
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "summary.md").write_text("### FAIL & `a=b`\n", encoding="utf-8")
    request = {"CI_API_V4_URL": address, "CI_PROJECT_ID": "7", "CI_MERGE_REQUEST_IID": "12", "no_proxy": "*"}
    assert gitlab(tmp_path, "after_script", **request).returncode == 0
    assert received == []
    done = gitlab(tmp_path, "after_script", **request, AUDIT_NOTE_TOKEN="secret")  # noqa: S106 (nobody's)
    assert done.returncode == 0, done.stdout
    ((path, headers, form),) = received
    assert path == "/api/v4/projects/7/merge_requests/12/notes"
    assert headers["PRIVATE-TOKEN"] == "secret"
    assert form == {"body": ["### FAIL & `a=b`\n"]}
    assert "secret" not in done.stdout


def test_that_the_gitlab_template_names_no_variable_that_it_does_not_set():
    text = (CI / "gitlab" / "auditkit.gitlab-ci.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"\bAUDIT_[A-Z_]+", text)) == {n for n in gitlab_job()["variables"] if n.startswith("AUDIT")}
    # GitLab puts no variables into the paths of exposed artifacts.
    assert "$" not in "".join(gitlab_job()["artifacts"]["paths"])


def jenkins_scripts() -> list[str]:
    """Return the shell scripts of the Jenkinsfile, in order: install, audit, report."""
    return re.findall(r"'''\n(.*?)'''", (CI / "jenkins" / "Jenkinsfile").read_text(encoding="utf-8"), re.DOTALL)


def test_that_jenkins_gets_the_exit_code_and_the_files_that_it_shows(again, warm):
    (again / "auditkit.toml").write_text(f"gates = ['{UNDECIDED}']\n{CONFIG}", encoding="utf-8")
    (again / ".venv" / "bin").mkdir(parents=True)
    (again / ".venv" / "bin" / "activate").write_text("", encoding="utf-8")
    _, audit, report = jenkins_scripts()
    # Jenkins runs scripts with `sh -xe`.
    done = run(["sh", "-xe", "-c", audit], again, PATH=warm)
    assert done.returncode == ExitCode.INCONCLUSIVE, done.stdout
    assert (again / "audit" / "junit.xml").is_file()
    done = run(["sh", "-xe", "-c", report], again, PATH=warm)
    assert done.returncode == 0, done.stdout
    page = (again / "audit" / "html" / "index.html").read_text(encoding="utf-8")
    # Jenkins' default Content-Security-Policy would drop them.
    assert not re.search(r"<script(?! type=.application/json)|<style|\sstyle=", page)


def test_that_the_jenkinsfile_shows_what_its_scripts_write_and_closes_what_it_opens():
    text = (CI / "jenkins" / "Jenkinsfile").read_text(encoding="utf-8")
    for name in ("testResults: 'audit/junit.xml'", "reportDir: 'audit/html'", "reportFiles: 'index.html'"):
        assert name in text
    code = re.sub(r"'''.*?'''|'[^'\n]*'|//[^\n]*", "", text, flags=re.DOTALL)
    assert all(code.count(opening) == code.count(closing) for opening, closing in ("{}", "()", "[]"))
    # Groovy fills in what stands between double quotes: only the exit code may.
    assert re.findall(r"\$\{?(\w+)", code) == ["code"]


def hooks() -> dict[str, dict]:
    return {hook["id"]: hook for hook in document(ROOT / ".pre-commit-hooks.yaml")}


def example_hooks() -> list[dict]:
    (repo,) = document(CI / "pre-commit" / ".pre-commit-config.yaml")["repos"]
    return repo["hooks"]


def test_that_every_hook_is_a_command_with_options_that_there_are():
    assert {hook["id"] for hook in example_hooks()} == set(hooks())
    for hook in example_hooks():
        program, command, *options = [*hooks()[hook["id"]]["entry"].split(), *hook["args"]]
        assert program == "auditkit"
        known = {
            name for option in cli.commands[command].params if isinstance(option, click.Option) for name in option.opts
        }
        assert {option for option in options if option.startswith("--")} <= known


def test_that_hooks_look_at_the_files_that_matter():
    looked_at = {name: re.compile(hook["files"]) for name, hook in hooks().items()}
    assert looked_at["auditkit-gate"].search("audit/result.json")
    assert not looked_at["auditkit-gate"].search("audit/my-result.json")
    assert all(looked_at["auditkit-run"].search(name) for name in ("model.onnx", "a/b.pt2", "auditkit.toml"))
    assert not looked_at["auditkit-run"].search("model.py")


@pytest.fixture
def repository(again):
    """A repository with a stored audit, that uses the example's hooks out of a repository of hooks."""
    source = again / "hooks"
    source.mkdir()
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", source)
    for folder in (source, again):
        git(folder, "init", "--quiet")
    git(source, "add", ".")
    git(source, "commit", "--quiet", "-m", "hooks")
    configuration = document(CI / "pre-commit" / ".pre-commit-config.yaml")
    (repo,) = configuration["repos"]
    repo |= {"repo": str(source), "rev": git(source, "rev-parse", "HEAD").strip()}
    for hook in repo["hooks"]:
        hook["language"] = "system"
    (again / ".pre-commit-config.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    git(again, "add", ".pre-commit-config.yaml", "audit/result.json")
    return again


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = run(["git", *identity, *arguments], folder, GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_SYSTEM=os.devnull)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.skipif(
    shutil.which("pre-commit", path=environment()["PATH"]) is None, reason="pre-commit is not installed"
)
def test_that_pre_commit_lets_a_commit_pass_only_while_the_stored_audit_does(repository, warm):
    home = {"PRE_COMMIT_HOME": str(repository / "cache"), "PATH": warm}
    done = run(["pre-commit", "run", "--all-files"], repository, **home)
    assert done.returncode == 0, done.stdout
    assert "Passed" in done.stdout
    file = repository / ".pre-commit-config.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace(">= 80%", "< 50%"), encoding="utf-8")
    git(repository, "add", str(file))
    done = run(["pre-commit", "run", "--all-files"], repository, **home)
    assert done.returncode == 1, done.stdout
    assert "requirement is not met" in done.stdout


def test_that_the_advice_on_numbers_of_images_is_what_gates_do():
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (\d+) \|(.+)\| (\d+) \|(.+)\|$", text, re.MULTILINE)
    assert len(rows) == 5
    for n, half, at_half, most, at_most in rows:
        for threshold, fewest, truths, chances in (
            (0.5, int(half), (0.55, 0.6, 0.65), at_half),
            (0.9, int(most), (0.95, 0.98), at_most),
        ):
            assert proportion(fewest, int(n)).low >= threshold > proportion(fewest - 1, int(n)).low
            shown = [int(cell.strip(" %")) for cell in chances.strip().split("|")]
            assert shown == [round(100 * stats.binom.sf(fewest - 1, int(n), truth)) for truth in truths]
