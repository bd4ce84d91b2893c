"""Counts of all shards become one, and the check concludes from them."""

from __future__ import annotations

import numpy as np
import pytest
from made_checks import GOOD, bench_for, boom, executed, made_check, numbers, ones, planned

from auditkit.check import Conclusion, Findings, Table, Tally


def tallied_named(name, conclude):
    """Return a check that counts its samples and keeps their largest number, shard by shard."""

    def run(self, model, samples, ctx):
        tallies = {"n": Tally(np.array([len(samples)])), "last": Tally(numbers(samples).max(keepdims=True), "largest")}
        return Findings(ones(model, samples, ctx).columns, tallies=tallies)

    return made_check(name, run, {"conclude": lambda self, tallies: conclude(tallies)})


class TestTallies:
    @pytest.mark.parametrize("shard", [1, 8, 20])
    def test_the_check_concludes_once_from_what_all_shards_counted(self, tmp_path, shard):
        def conclude(tallies):
            row = tuple(int(tallies[name][0]) for name in ("n", "last"))
            return Conclusion((Table("Counted", ("images", "last"), (row,)),))

        _, result, _ = executed(bench_for(shard=shard), [planned(tallied_named("made.tally", conclude))], tmp_path)
        (table,) = result.check("made.tally").tables
        assert (table.columns, table.rows) == (("images", "last"), ((20, 19),))

    def test_a_conclusion_that_fails_fails_the_check_in_one_line_and_no_other(self, tmp_path):
        plan = [planned(tallied_named("made.boom", lambda tallies: boom(*[None] * 3))), planned(GOOD)]
        _, result, _ = executed(bench_for(), plan, tmp_path)
        record = result.check("made.boom")
        assert (record.status, record.reason) == ("failed", "RuntimeError while concluding: boom")
        assert result.check("made.good").status == "done"

    def test_tallies_that_nobody_concludes_from_are_a_failure_in_words(self, tmp_path):
        made = tallied_named("made.tally", None)
        del made.conclude
        _, result, _ = executed(bench_for(), [planned(made)], tmp_path)
        assert "no attribute 'conclude'" in result.check("made.tally").reason
