"""`_BASE_`: a yaml file that starts from another one."""

import pytest

from labelenc.config import ConfigError, load_config, num_classes

BASE = """
    MODEL:
      RETINANET_ON: True
      BACKBONE: {CONV_BODY: "R-50-FPN-RETINANET"}
    SOLVER: {BASE_LR: 0.1, GAMMA: 0.2, MAX_ITER: 10}
    OUTPUT_DIR: "base"
"""


def test_nearer_files_override_farther_ones_and_the_command_line_all(write_yaml):
    write_yaml(BASE, "base.yaml")
    write_yaml("_BASE_: base.yaml\nSOLVER: {GAMMA: 0.3, MAX_ITER: 20, MOMENTUM: 0.5}", "middle.yaml")
    # Where in the file the key stands does not matter.
    path = write_yaml("SOLVER: {MAX_ITER: 30, MOMENTUM: 0.6}\n_BASE_: middle.yaml", "top.yaml")
    cfg = load_config(path, ["SOLVER.MOMENTUM", "0.7"])
    solver = cfg.SOLVER
    assert (solver.BASE_LR, solver.GAMMA, solver.MAX_ITER, solver.MOMENTUM) == (0.1, 0.3, 30, 0.7)
    assert cfg.MODEL.BACKBONE.CONV_BODY == "R-50-FPN-RETINANET"
    assert cfg.OUTPUT_DIR == "base"
    # Neither group of keys nor default is lost where a file writes a part of it.
    assert solver.WARMUP_ITERS == 500
    assert "_BASE_" not in cfg


def test_a_base_is_found_from_the_file_that_names_it(write_yaml, tmp_path, monkeypatch):
    for folder in ("a", "b", "elsewhere"):
        (tmp_path / folder).mkdir()
    write_yaml(BASE, "base.yaml")
    write_yaml("_BASE_: ../base.yaml\nSOLVER: {GAMMA: 0.4}", "a/middle.yaml")
    path = write_yaml("_BASE_: ../a/middle.yaml", "b/top.yaml")
    # A namesake in the working directory is not meant.
    write_yaml("SOLVER: {GAMMA: 0.9}", "elsewhere/middle.yaml")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_config(path).SOLVER.GAMMA == 0.4
    monkeypatch.chdir(tmp_path)
    assert load_config("b/top.yaml").SOLVER.GAMMA == 0.4
    absolute = write_yaml(f"_BASE_: {tmp_path}/a/middle.yaml", "elsewhere/top.yaml")
    assert load_config(absolute).SOLVER.GAMMA == 0.4


def test_one_base_serves_several_files(write_yaml):
    write_yaml(BASE, "base.yaml")
    one = write_yaml("_BASE_: base.yaml\nSOLVER: {GAMMA: 0.5}", "one.yaml")
    other = write_yaml("_BASE_: base.yaml", "other.yaml")
    assert (load_config(one).SOLVER.GAMMA, load_config(other).SOLVER.GAMMA) == (0.5, 0.2)


def test_a_missing_base_names_the_file_that_wants_it(write_yaml, tmp_path):
    write_yaml("_BASE_: lost.yaml", "middle.yaml")
    path = write_yaml("_BASE_: middle.yaml", "top.yaml")
    with pytest.raises(ConfigError, match=r"lost\.yaml, the _BASE_ of .*middle\.yaml, does not exist"):
        load_config(path)
    folder = write_yaml(f"_BASE_: {tmp_path}", "folder.yaml")
    with pytest.raises(ConfigError, match=r"the _BASE_ of .*folder\.yaml"):
        load_config(folder)


def test_a_file_cannot_be_its_own_base(write_yaml):
    own = write_yaml("_BASE_: own.yaml", "own.yaml")
    with pytest.raises(ConfigError, match=r"own\.yaml is, through _BASE_, its own base"):
        load_config(own)
    write_yaml("_BASE_: ./second.yaml", "first.yaml")
    write_yaml("_BASE_: third.yaml", "second.yaml")
    write_yaml("_BASE_: first.yaml", "third.yaml")
    top = write_yaml("_BASE_: first.yaml", "top.yaml")
    with pytest.raises(ConfigError, match=r"first\.yaml is, through _BASE_, its own base"):
        load_config(top)


@pytest.mark.parametrize("value", ["[base.yaml]", "{file: base.yaml}", "3", "True"])
def test_a_base_is_the_name_of_one_file(write_yaml, value):
    write_yaml(BASE, "base.yaml")
    path = write_yaml(f"_BASE_: {value}", "top.yaml")
    with pytest.raises(ConfigError, match=r"_BASE_ in .*top\.yaml must be the name of one yaml file"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "SOLVER: {BASE_LRR: 1}",
            r"unknown key SOLVER\.BASE_LRR in .*base\.yaml; did you mean SOLVER\.BASE_LR",
        ),
        ("SOLVER: {BASE_LR: fast}", r"SOLVER\.BASE_LR in .*base\.yaml must be a float"),
        ("SOLVER: [1", r"base\.yaml is not valid yaml"),
        ("- SOLVER", r"base\.yaml must hold KEY: value lines"),
        ("SOLVER: {_BASE_: other.yaml}", r"unknown key SOLVER\._BASE_ in .*base\.yaml"),
    ],
)
def test_a_fault_in_a_base_names_the_base(write_yaml, text, message):
    write_yaml(text, "base.yaml")
    path = write_yaml("_BASE_: base.yaml\nSOLVER: {BASE_LR: 0.1}", "top.yaml")
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_an_empty_base_is_the_defaults(write_yaml, minimal):
    write_yaml("", "base.yaml")
    assert load_config(write_yaml("_BASE_: base.yaml"), minimal) == load_config(None, minimal)


def test_the_command_line_has_no_base(minimal):
    with pytest.raises(ConfigError, match="unknown key _BASE_ on the command line"):
        load_config(None, [*minimal, "_BASE_", "base.yaml"])


def test_registered_sets_and_free_keys_of_the_base_stay(write_yaml):
    write_yaml(
        BASE
        + """
    DATASETS:
      REGISTER:
        set.one: {images: "a", annotations: "a.json"}
        set.two: {images: "b", annotations: "b.json"}
      TRAIN: ("set.one",)
""",
        "base.yaml",
    )
    path = write_yaml(
        """
        _BASE_: base.yaml
        DATASETS:
          REGISTER:
            set.two: {images: "c", annotations: "c.json"}
            three: {voc_root: "d", split: "val"}
          TEST: ("three",)
        """
    )
    sets = load_config(path).DATASETS
    assert sets.REGISTER == {
        "set.one": {"images": "a", "annotations": "a.json"},
        "set.two": {"images": "c", "annotations": "c.json"},
        "three": {"voc_root": "d", "split": "val"},
    }
    assert (sets.TRAIN, sets.TEST) == (("set.one",), ("three",))


def test_what_a_base_writes_counts_as_written(write_yaml):
    """Defaults that follow from other keys, and the ancestors' class counts, ask what was written."""
    write_yaml(BASE, "base.yaml")
    text = """
        _BASE_: base.yaml
        MODEL:
          RETINANET: {NUM_CLASSES: 21}
          RESNETS: {RES2_OUT_CHANNELS: 256}
    """
    write_yaml(text, "middle.yaml")
    body = 'MODEL: {BACKBONE: {CONV_BODY: "R-18-FPN-RETINANET"}}'
    cfg = load_config(write_yaml(f"_BASE_: middle.yaml\n{body}", "top.yaml"))
    assert num_classes(cfg) == 20
    assert cfg.MODEL.RESNETS.RES2_OUT_CHANNELS == 256
    plain = load_config(write_yaml(f"_BASE_: base.yaml\n{body}", "plain.yaml"))
    assert plain.MODEL.RESNETS.RES2_OUT_CHANNELS == 64
