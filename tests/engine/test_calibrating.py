"""Checks that learn from a few images, spread evenly, and are judged on all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from made_checks import (
    BRIGHTER,
    GOOD,
    JUDGED,
    LEARNED,
    NETWORK,
    SAMPLES,
    bench_for,
    executed,
    learner_named,
    mean_of_images,
    planned,
)

from auditkit import workbench
from auditkit.config import settings_from
from auditkit.preparing import set_up
from auditkit.workbench import Recipe


class TestCalibrating:
    def calibrated(self, name="made.calibrated", lesson=mean_of_images):
        made = learner_named(name, lesson)
        made.spec = replace(made.spec, scope="calibrated")
        return made

    def test_it_learns_from_a_few_images_and_is_judged_on_all(self, tmp_path, monkeypatch):
        monkeypatch.setattr(workbench, "_CALIBRATION_IMAGES", 4)
        _, result, table = executed(bench_for(), [planned(self.calibrated())], tmp_path)
        ((key, learned),) = LEARNED
        assert (key, learned) == ("made.calibrated", ("0", "5", "10", "15"))
        assert [str(row) for row in range(20)] == JUDGED
        assert result.check("made.calibrated").metrics["ones"].n == 20
        assert "made.calibrated/held_out" not in table
        wanted = SAMPLES.images[[0, 5, 10, 15]].double().mean().item()
        np.testing.assert_array_equal(table["made.calibrated/lesson"], wanted)

    def test_of_fewer_images_than_that_it_learns_from_each_once(self, tmp_path):
        executed(bench_for(), [planned(self.calibrated())], tmp_path)
        assert [("made.calibrated", tuple(str(row) for row in range(20)))] == LEARNED

    def test_shards_change_nothing_and_a_second_run_learns_nothing_anew(self, tmp_path):
        tables = [
            executed(bench_for(shard=size), [planned(self.calibrated())], tmp_path / f"{size}")[2] for size in (3, 20)
        ]
        for name, column in tables[0].items():
            np.testing.assert_array_equal(column, tables[1][name])
        learned = len(LEARNED)
        executed(bench_for(shard=3), [planned(self.calibrated())], tmp_path / "3")
        assert len(LEARNED) == learned

    def test_another_image_among_them_is_another_lesson(self, tmp_path):
        units = [
            set(executed(bench_for(images=images), [planned(self.calibrated())], tmp_path)[0].lessons.values())
            for images in (SAMPLES.images, BRIGHTER)
        ]
        assert units[0] != units[1]

    def test_where_none_of_them_can_be_read_the_check_fails_with_the_reason(self, tmp_path, monkeypatch):
        monkeypatch.setattr(workbench, "_CALIBRATION_IMAGES", 1)
        images = [SAMPLES.images[row].numpy() for row in range(20)]
        images[0] = np.full_like(images[0], np.nan)
        pairs = list(zip(images, SAMPLES.labels.tolist(), strict=True))
        bench = set_up(Recipe(NETWORK, pairs, settings_from({"precision": "float32", "skip_bad": True})))
        _, result, _ = executed(bench, [planned(self.calibrated()), planned(GOOD)], tmp_path)
        assert result.check("made.calibrated").reason == "none of the images to calibrate with could be read"
        assert result.check("made.good").status == "done"
