"""What a resumed run says of a changed configuration."""

import pytest

from labelenc.config import ConfigError, changed_keys, load_config


def test_changes_are_named_but_for_the_free_keys(tmp_path, minimal):
    written = tmp_path / "config.yml"
    written.write_text(load_config(None, minimal).dump())
    assert changed_keys(written, load_config(None, minimal)) == []
    free = ["SOLVER.MAX_ITER", "7", "OUTPUT_DIR", "x", "TEST.IMS_PER_BATCH", "3"]
    assert changed_keys(written, load_config(None, minimal + free)) == []
    other = ["SOLVER.BASE_LR", "0.5", "MODEL.RETINANET.ANCHOR_SIZES", "(1, 2, 3, 4, 5)"]
    assert changed_keys(written, load_config(None, minimal + other)) == [
        "MODEL.RETINANET.ANCHOR_SIZES was [32, 64, 128, 256, 512], is [1, 2, 3, 4, 5]",
        "SOLVER.BASE_LR was 0.001, is 0.5",
    ]


def test_no_file_or_a_broken_one_is_no_change(tmp_path, minimal):
    cfg = load_config(None, minimal)
    assert changed_keys(tmp_path / "none.yml", cfg) == []
    (tmp_path / "broken.yml").write_text("a: [1")
    assert changed_keys(tmp_path / "broken.yml", cfg) == []


def test_another_number_of_images_per_update_cannot_resume(tmp_path, minimal):
    written = tmp_path / "config.yml"
    written.write_text(load_config(None, minimal).dump())
    cfg = load_config(None, [*minimal, "SOLVER.IMS_PER_BATCH", "32"])
    with pytest.raises(ConfigError, match=r"IMS_PER_BATCH 16, so it cannot resume with 32"):
        changed_keys(written, cfg)
