"""The classes of COCO and Pascal VOC, for checkpoints that are used without their data sets."""

# In the order of their ids, which run to 90 and leave some out.
_COCO_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire "
    "hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, "
    "zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports "
    "ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine "
    "glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot "
    "dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, "
    "clock, vase, scissors, teddy bear, hair drier, toothbrush"
)
_COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_COCO_IDS = [number for number in range(1, 91) if number not in _COCO_UNUSED_IDS]
COCO_CATEGORIES = tuple(zip(_COCO_IDS, _COCO_NAMES.split(", "), strict=True))

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def known_categories(dataset: str, number: int) -> tuple[tuple[int, str], ...] | None:
    """(category id, name) of the classes of a built-in data set; None where it is none or has not
    ``number`` of them."""
    tables = {"coco_": COCO_CATEGORIES, "voc_": tuple(enumerate(VOC_CLASSES, start=1))}
    found = next((table for prefix, table in tables.items() if dataset.startswith(prefix)), ())
    return found if len(found) == number else None
