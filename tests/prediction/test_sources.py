"""Words of a command line: which files they mean, in which order, and what is written for each."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from labelenc.prediction import PredictionError
from labelenc.prediction.sinks import output_names, refuse_to_overwrite
from labelenc.prediction.sources import find_sources


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """Pictures, a video, what is neither, what is hidden, and folders; the current folder is their parent."""
    picture = np.zeros((4, 6, 3), np.uint8)
    for name in (
        "b.jpg",
        "a.PNG",
        "clip.mp4",
        "notes.md",
        ".hidden.jpg",
        "in/a.png",
        "in/deep/c.bmp",
        ".git/d.jpg",
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = (
            cv2.imencode(path.suffix, picture)[1] if path.suffix in (".jpg", ".png", ".bmp", ".PNG") else b"?"
        )
        path.write_bytes(bytes(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def places(*words: str, **options) -> list[str]:
    return [source.place for source in find_sources(words, **options)]


def test_folders(tree):
    assert places("photos") == ["photos/a.PNG", "photos/b.jpg", "photos/clip.mp4"]
    everything = find_sources(["photos"], recursive=True)
    assert [source.name for source in everything] == [
        "a.PNG",
        "b.jpg",
        "clip.mp4",
        "in/a.png",
        "in/deep/c.bmp",
    ]
    assert [source.still for source in everything] == [True, True, False, True, True]
    assert places("photos", recursive=True, exclude=tree / "in") == places("photos")


def test_globs(tree):
    assert places("photos/*.jpg") == ["photos/b.jpg"]
    assert places("photos/**/*.[pb]*") == ["photos/in/a.png", "photos/in/deep/c.bmp"]
    # Names begin where the pattern does.
    assert [source.name for source in find_sources(["photos/*/*.png"])] == ["in/a.png"]
    assert places(str(tree / "*.jpg")) == [str(tree / "b.jpg")]
    (tree / "odd[1].jpg").write_bytes((tree / "b.jpg").read_bytes())
    assert places("photos/odd[1].jpg") == ["photos/odd[1].jpg"]
    with pytest.raises(PredictionError, match=r"no pictures or videos in photos/\*\.gif"):
        places("photos/*.gif")


def test_lists(tree):
    (tree / "list.txt").write_text(
        "\ufeff# a comment\nb.jpg\n\n  in/a.png \nrtsp://camera/1\ngone.jpg\n", "utf-8"
    )
    assert places("photos/list.txt") == [
        "photos/b.jpg",
        "photos/in/a.png",
        "rtsp://camera/1",
        "photos/gone.jpg",
    ]
    (tree / "list.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(PredictionError, match=r"the list photos/list\.txt cannot be read"):
        places("photos/list.txt")


def test_each_file_comes_once(tree):
    words = ["photos/b.jpg", "photos/in/../b.jpg", str(tree / "b.jpg"), "photos/*.jpg", "photos"]
    assert places(*words) == ["photos/b.jpg", "photos/a.PNG", "photos/clip.mp4"]
    assert places("webcam", "0", "webcam:0") == ["webcam:0"]


def test_cameras_and_streams(tree):
    [zero, two, stream] = find_sources(["webcam", "2", "rtsp://user@host:554/live?x=1"])
    assert (zero.camera, two.camera, stream.camera) == (0, 2, None)
    assert zero.live
    assert stream.live
    assert output_names([zero, two, stream]) == ["webcam0.mp4", "webcam2.mp4", "user_host_554_live_x_1.mp4"]
    (tree.parent / "2").mkdir()
    (tree.parent / "2/x.jpg").write_bytes((tree / "b.jpg").read_bytes())
    assert places("2") == ["2/x.jpg"]


def test_files_without_a_known_suffix_are_looked_into(tree):
    (tree / "noname").write_bytes((tree / "b.jpg").read_bytes())
    (tree / "film").write_bytes(b"no picture")
    assert [source.still for source in find_sources(["photos/noname", "photos/film"])] == [True, False]
    assert output_names(find_sources(["photos/noname", "photos/film"])) == ["noname.jpg", "film.mp4"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nowhere.jpg", "there is no nowhere.jpg"),
        ("photos/in/deep/none", "there is no"),
        ("photos/empty", "no pictures or videos in photos/empty; --recursive"),
        ("webcam:x", "there is no webcam:x"),
        ("", "there is no"),
    ],
)
def test_words_that_mean_nothing(tree, word, message):
    (tree / "empty").mkdir()
    with pytest.raises(PredictionError, match=message):
        places(word)


def test_names_that_clash_tell_the_folder(tree):
    for name in ("one/x.jpg", "two/x.jpg", "two/X.png", "two/X.jpg", "two/x.gif"):
        path = tree / "more" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((tree / "b.jpg").read_bytes())
    names = output_names(find_sources(["photos/b.jpg", "photos/more/one"]))
    assert names == ["b.jpg", "x.jpg"]
    names = output_names(find_sources(["photos/more/one", "photos/more/two", "webcam"]))
    # X.jpg and x.jpg are one file on some systems, and x.gif is written as a JPEG file.
    assert names == ["one/x.jpg", "two/X.jpg", "two/X.png", "two/x_2.jpg", "two/x_3.jpg", "webcam0.mp4"]
    names = output_names(find_sources(["photos/clip.mp4", "photos/in/a.png", "photos/a.PNG"]))
    assert sorted(names) == ["a.PNG", "clip.mp4", "in/a.png"]


def test_names_stay_in_the_output_folder(tree):
    for source in find_sources(["photos/in/../*.jpg", str(tree / "in")]):
        assert not Path(source.name).is_absolute()
        assert ".." not in Path(source.name).parts


def test_inputs_are_never_overwritten(tree):
    sources = find_sources(["photos"])
    refuse_to_overwrite(sources, [tree / "other.jpg"])
    (tree.parent / "link").symlink_to(tree)
    os.link(tree / "b.jpg", tree.parent / "hard.jpg")
    for target in (tree / "b.jpg", tree.parent / "link/b.jpg", tree.parent / "hard.jpg"):
        with pytest.raises(PredictionError, match=r"is an input and would be overwritten.*--output"):
            refuse_to_overwrite(sources, [target])
