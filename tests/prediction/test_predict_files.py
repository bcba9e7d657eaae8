"""tools/predict.py: everything that is written, compared with what the Python interface finds."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

import labelenc
from labelenc.config import ConfigError
from labelenc.prediction import PredictionError, Settings, predict_files
from labelenc.prediction.sinks import _Video

SETTINGS = Settings(score_threshold=0.15)


def test_pictures_json_and_csv(trained, tmp_path, predict):
    content, rows = predict(trained / "val")
    detector = labelenc.load_detector(trained / "run/model_final.pth", device="cpu")
    files = sorted((trained / "val").iterdir())
    expected = detector.predict(files, SETTINGS.score_threshold, batch_size=1)
    assert [image["id"] for image in content["images"]] == [1, 2, 3, 4, 5, 6]
    assert [image["file_name"] for image in content["images"]] == list(map(str, files))
    entries = [entry for i, found in enumerate(expected, start=1) for entry in found.to_coco(i)]
    assert len(entries) > 20
    for entry, written, row in zip(entries, content["annotations"], rows, strict=True):
        assert {key: written[key] for key in entry} == entry
        x0, y0, x1, y1 = (float(row[key]) for key in ("x0", "y0", "x1", "y1"))
        assert entry["bbox"] == pytest.approx([x0, y0, x1 - x0 + 1, y1 - y0 + 1], abs=2e-3)
        assert float(row["score"]) == pytest.approx(entry["score"], abs=1e-6)
        assert row["frame"] == ""
    assert [row["class"] for row in rows] == [name for found in expected for name in found.names]
    for path, found in zip(files, expected, strict=True):
        written = (tmp_path / "out" / path.name).read_bytes()
        assert written == cv2.imencode(path.suffix, found.draw())[1].tobytes()
    assert not list((tmp_path / "out").glob("*.part*"))


def test_json_is_a_coco_file(tmp_path, trained, predict, capsys):
    content, _ = predict(trained / "val")
    coco = COCO(str(tmp_path / "out/predictions.json"))
    assert len(coco.getAnnIds()) == len(content["annotations"])
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(
        labelenc.load_detector(trained / "run/model_final.pth", device="cpu").class_names
    )
    assert coco.loadRes(content["annotations"]).getImgIds() == [1, 2, 3, 4, 5, 6]
    first = coco.loadAnns(1)[0]
    assert first["area"] == pytest.approx(first["bbox"][2] * first["bbox"][3], abs=1e-3)


def test_batches_change_nothing(trained, tmp_path, predict):
    (one, rows), (other, others) = (
        predict(trained / "val", output=tmp_path / str(n), settings=Settings(0.15, batch_size=n))
        for n in (1, 4)
    )
    assert one["images"] == other["images"]
    assert len(rows) == len(others)
    for a, b in zip(one["annotations"], other["annotations"], strict=True):
        assert a["score"] == pytest.approx(b["score"], abs=1e-4)


def test_video_keeps_its_frames_rate_and_size(tmp_path, predict, write_video, read_video):
    write_video(tmp_path / "clip.avi", 20)
    content, rows = predict(tmp_path / "clip.avi", settings=Settings(0.15, batch_size=8))
    written, fps = read_video(tmp_path / "out/clip.mp4")
    assert len(written) == 20
    assert fps == pytest.approx(12.5)
    assert written[0].shape == (48, 64, 3)
    assert [image["frame"] for image in content["images"]] == list(range(20))
    assert {row["frame"] for row in rows} <= set(map(str, range(20)))
    # Without boxes the square can be seen, where it was.
    predict(tmp_path / "clip.avi", output=tmp_path / "plain", settings=Settings(1.0))
    for i, seen in enumerate(read_video(tmp_path / "plain/clip.mp4")[0]):
        columns = np.nonzero((seen[..., 2].astype(int) - seen[..., 0] > 90).any(axis=0))[0]
        assert columns.mean() == pytest.approx(2 * i + 4.5, abs=1.5)


def test_odd_sizes_lose_nothing(tmp_path, read_video):
    picture = np.full((47, 63, 3), 90, np.uint8)
    picture[:, -1] = picture[-1] = 255
    video = _Video(tmp_path / "odd.mp4", 5.0, picture)
    video.write(picture)
    video.write(np.zeros((20, 30, 3), np.uint8))
    video.close()
    frames, _ = read_video(tmp_path / "odd.mp4")
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 2
    assert frames[0][5:40, 62].mean() > 200
    assert frames[0][46, 5:60].mean() > 200


@pytest.mark.parametrize(
    ("settings", "numbers", "fps"),
    [
        (Settings(0.15, every=3), [0, 3, 6, 9, 12, 15, 18], 12.5 / 3),
        (Settings(0.15, max_frames=4), [0, 1, 2, 3], 12.5),
        (Settings(0.15, every=6, max_frames=2, batch_size=5), [0, 6], 12.5 / 6),
    ],
)
def test_some_frames_only(tmp_path, predict, settings, numbers, fps, write_video, read_video):
    write_video(tmp_path / "clip.avi", 20)
    content, _ = predict(tmp_path / "clip.avi", settings=settings)
    assert [image["frame"] for image in content["images"]] == numbers
    frames, rate = read_video(tmp_path / "out/clip.mp4")
    assert len(frames) == len(numbers)
    assert rate == pytest.approx(fps, rel=1e-3)


def test_what_cannot_be_read_is_left_out_and_told(tmp_path, trained, predict, capsys, results):
    folder = tmp_path / "in"
    shutil.copytree(trained / "val", folder)
    (folder / "000002.jpg").write_text("no picture")
    (folder / "000004.jpg").write_bytes(b"")
    (folder / "z.mp4").write_text("no video")
    with pytest.raises(PredictionError, match="3 of 7 inputs could not be read"):
        predict(folder)
    content, _ = results(tmp_path / "out")
    # The ids of the others are what they are when all is well.
    assert [image["id"] for image in content["images"]] == [1, 3, 5, 6]
    told = capsys.readouterr()
    assert [line.split("in/")[1].split()[0] for line in told.err.splitlines() if "left out" in line] == [
        "000002.jpg",
        "000004.jpg",
        "z.mp4",
    ]
    assert "\n4 images, " in f"\n{told.out}"
    assert not (tmp_path / "out/z.mp4").exists()


def test_a_video_that_ends_early_is_told(tmp_path, monkeypatch, predict, results, write_video):
    write_video(tmp_path / "clip.avi", 20)
    monkeypatch.setattr(cv2, "VideoCapture", lambda place: Breaking(place, 5))
    with pytest.raises(PredictionError, match="1 of 1 inputs"):
        predict(tmp_path / "clip.avi")
    assert len(results(tmp_path / "out")[0]["images"]) == 5


class Breaking:
    """A video file of which only the first frames can be decoded."""

    def __init__(self, place: str, count: int, real=cv2.VideoCapture) -> None:
        self._capture, self._left = real(place), count

    def __getattr__(self, name: str):
        return getattr(self._capture, name)

    def grab(self) -> bool:
        self._left -= 1
        return self._left >= 0 and self._capture.grab()


def test_cameras_differ_from_files_in_their_number_alone(
    tmp_path, monkeypatch, predict, write_video, read_video
):
    write_video(tmp_path / "clip.avi", 9)
    opened = []

    def capture(place, real=cv2.VideoCapture):
        opened.append(place)
        return real(str(tmp_path / "clip.avi"))

    monkeypatch.setattr(cv2, "VideoCapture", capture)
    content, _ = predict("webcam:3", settings=Settings(0.15, max_frames=6))
    monkeypatch.undo()
    assert opened == [3]
    assert [image["file_name"] for image in content["images"]] == ["webcam:3"] * 6
    assert len(read_video(tmp_path / "out/webcam3.mp4")[0]) == 6


def test_no_camera_no_stream(predict, capfd):
    with pytest.raises(PredictionError, match="2 of 2 inputs"):
        predict("webcam:77", "http://127.0.0.1:9/none.mp4")
    told = capfd.readouterr().err
    assert "left out: webcam:77 cannot be opened: is the camera connected" in told
    assert "left out: the stream http://127.0.0.1:9/none.mp4 cannot be opened" in told


def test_tables_only(tmp_path, trained, predict, write_video):
    write_video(tmp_path / "clip.avi", 3)
    predict(trained / "val", tmp_path / "clip.avi", settings=Settings(0.15, pictures=False))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "predictions.csv",
        "predictions.json",
    ]


def test_rotated_photos_are_upright_everywhere(tmp_path, predict):
    image = pytest.importorskip("PIL.Image")
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, :40] = 255
    exif = image.Exif()
    exif[0x0112] = 6
    image.fromarray(picture).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    content, _ = predict(tmp_path / "turned.jpg", settings=Settings(1.0))
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (40, 80)
    written = cv2.imread(str(tmp_path / "out/turned.jpg"), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert written.shape == (80, 40, 3)
    assert written[:30].mean() > 200


def test_outputs_never_replace_inputs(tmp_path, trained, predict):
    shutil.copytree(trained / "val", tmp_path / "in")
    before = {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    with pytest.raises(PredictionError, match="is an input and would be overwritten"):
        predict(tmp_path / "in", output=tmp_path / "in")
    assert {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before
    # Twice into a folder below: what was written is no input of the second run.
    for _ in range(2):
        content, _ = predict(tmp_path / "in", output=tmp_path / "in/out", settings=Settings(recursive=True))
        assert len(content["images"]) == 6


def test_folders_that_cannot_be_written(tmp_path, trained, predict):
    (tmp_path / "file").write_text("")
    with pytest.raises(PredictionError, match=r"cannot write .*predictions\.json"):
        predict(trained / "val", output=tmp_path / "file/out")


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
def test_devices_that_are_not_here(trained, tmp_path, device):
    words = [str(trained / "val")]
    with pytest.raises(ConfigError, match=f"the device '{device}' cannot be used"):
        predict_files(str(trained / "run/model_final.pth"), words, tmp_path / "out", SETTINGS, device=device)


def test_keys_can_be_overridden_and_configurations_given(trained, tmp_path, results):
    """The same picture at another size of the network's input, with a configuration from outside."""
    weights, picture = str(trained / "run/model_final.pth"), [str(trained / "val/000001.jpg")]
    found = []
    for name, opts in (("a", []), ("b", ["INPUT.MIN_SIZE_TEST", "64"])):
        predict_files(weights, picture, tmp_path / name, SETTINGS, str(trained / "config.yaml"), opts, "cpu")
        found.append(results(tmp_path / name)[1])
    assert found[0]
    assert found[0] != found[1]
