"""What `tools/check_dataset.py` and `tools/convert_dataset.py` do."""

from labelenc.dataset_tools.check import check_coco_file, check_config, check_voc_folder
from labelenc.dataset_tools.convert import convert

__all__ = ["check_coco_file", "check_config", "check_voc_folder", "convert"]
