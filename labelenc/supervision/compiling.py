"""What torch.compile is good for in a detector, in steps 1 and 2: convolutions and what lies between them.

Target assignment, losses, label maps and the second stage work on numbers of boxes, which change with
every batch.
"""

# The encoder's first convolution depends on the classes of the batch, so its stages are compiled one by one.
COMPILED_PARTS = (
    "backbone",
    "rpn.head.cls_tower",
    "rpn.head.bbox_tower",
    "label_encoding_function.body.stage2",
    "label_encoding_function.body.stage3",
    "label_encoding_function.body.stage4",
    "label_encoding_function.body.stage5",
    "label_encoding_function.fpn",
    "feature_adapt",
)
