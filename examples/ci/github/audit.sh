#!/usr/bin/env bash
# What the GitHub Action of auditkit does: audit, publish, and end with the exit code of the audit.
#
# All that a user gives comes in variables INPUT_*. They are only ever quoted words of a command, never parts of a script.
set -euo pipefail

out="${INPUT_OUT:-audit}"
summary="${GITHUB_STEP_SUMMARY:-/dev/null}"
outputs="${GITHUB_OUTPUT:-/dev/null}"
# GitHub takes no step summary above 1 MiB.
summary_limit=1000000

# Add the option to the arguments, unless it has no value: `--data=images` cannot be read as another option.
add() {
  if [[ -n "$2" ]]; then
    arguments+=("$1=$2")
  fi
}

# The same for each line of a text; without an option, a line is an argument by itself.
add_lines() {
  local line
  while IFS= read -r line; do
    if [[ -n "${line//[[:space:]]/}" ]]; then
      arguments+=("${1:+$1=}$line")
    fi
  done <<<"$2"
}

# Name a file in the outputs of the step, if this run has written it; the folder may hold those of an earlier run.
publish() {
  if [[ "$2" -nt "$began" ]]; then
    printf '%s=%s\n' "$1" "$2" >>"$outputs"
  fi
}

if [[ "$out" == *$'\n'* ]]; then
  echo "auditkit: the input out must be one line" >&2
  exit 2
fi

arguments=(run --out="$out")
add --data "${INPUT_DATA:-}"
add --preset "${INPUT_PRESET:-}"
add --config "${INPUT_CONFIG:-}"
add --baseline "${INPUT_BASELINE:-}"
add_lines --gate "${INPUT_GATES:-}"
add_lines --warn "${INPUT_WARNINGS:-}"
add_lines "" "${INPUT_ARGUMENTS:-}"
if [[ -n "${INPUT_MODEL:-}" ]]; then
  arguments+=(-- "$INPUT_MODEL")
fi

began="$(mktemp)"
trap 'rm -f "$began"' EXIT

# Until the token comes, the runner obeys no line of the log: names of classes and files are printed there.
token="$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
echo "::stop-commands::$token"
code=0
auditkit "${arguments[@]}" || code=$?
if [[ "$out/result.json" -nt "$began" ]]; then
  sarif_code=0
  auditkit report --format=sarif --out="$out/auditkit.sarif" -- "$out" || sarif_code=$?
  if [[ "$code" == 0 ]]; then
    code="$sarif_code"
  fi
fi
echo "::$token::"

printf 'exit-code=%s\n' "$code" >>"$outputs"
publish report "$out/report.html"
publish sarif "$out/auditkit.sarif"
publish junit "$out/junit.xml"
publish result "$out/result.json"
if [[ "$out/summary.md" -nt "$began" ]]; then
  head -c "$summary_limit" "$out/summary.md" >>"$summary"
else
  echo "auditkit ended with exit code $code before there was a result. The log says why." >>"$summary"
fi
exit "$code"
