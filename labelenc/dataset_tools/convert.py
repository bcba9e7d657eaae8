"""Conversion of a folder to COCO files, and what to do with them."""

from __future__ import annotations

import json
import logging
import re
import shlex
from pathlib import Path

from labelenc import data, engine
from labelenc.data.convert import ConvertedPart, convert_folder

logger = logging.getLogger(__name__)


def convert(
    root: str,
    output: str | None = None,
    kind: str = "auto",
    val_share: float = 0.2,
    seed: int = 0,
    overwrite: bool = False,
    skip_faulty: bool = False,
    displayed: bool = True,
) -> None:
    """Convert a folder as `data.convert.convert_folder` does; log what is found; print lines for a config."""
    engine.setup_logging(None)
    done = convert_folder(root, output, kind, val_share, seed, overwrite, skip_faulty, displayed)
    data.log_problems(done.problems)
    logger.info("%s folder, %d classes: %s", done.kind, len(done.class_names), ", ".join(done.class_names))
    for part in done.parts:
        counts = f"{part.num_images} images ({part.num_background} without a box), {part.num_boxes} boxes"
        logger.info("wrote %s: %s", part.annotations, counts)
    lines, command = register_lines(root, done.parts), _next_command(done.parts[0])
    print(f"\nFor the config:\n\n{lines}\n\nNext:\n\n{command}")


def register_lines(root: str, parts: tuple[ConvertedPart, ...]) -> str:
    """The part of a config that names the sets; paths as they were given."""
    stem = re.sub(r"\W+", "_", Path(root).resolve().name, flags=re.ASCII).strip("_").lower() or "data"
    lines = ["DATASETS:", "  REGISTER:"]
    for part in parts:
        # A JSON text is a YAML text, whatever characters are in it.
        images, annotations = json.dumps(str(part.image_dir)), json.dumps(str(part.annotations))
        lines.append(f"    {stem}_{part.split}: {{images: {images}, annotations: {annotations}}}")
    splits = [part.split for part in parts]
    training = "train" if "train" in splits else splits[0]
    # The test split is for the very end; training looks at the validation images.
    testing = next((split for split in ("val", "test") if split in splits), None)
    lines.append(f'  TRAIN: ("{stem}_{training}",)')
    if testing is not None:
        lines.append(f'  TEST: ("{stem}_{testing}",)')
    return "\n".join(lines)


def _next_command(part: ConvertedPart) -> str:
    words = ["--images", str(part.image_dir), "--annotations", str(part.annotations)]
    return shlex.join(["python", "tools/check_dataset.py", *words, "--output", "dataset_check"])
