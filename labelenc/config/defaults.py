"""Every configuration key with its default.

The tree is the one that maskrcnn-benchmark, FCOS and LabelEnc users know: same names, same defaults, so
that their yaml files and command lines work here. Keys that are new here carry a comment. Keys of
features that this package does not have are kept so that files which mention them load;
``checks.UNSUPPORTED`` lists the only values that are accepted for them.
"""

from __future__ import annotations

from yacs.config import CfgNode as CN


def default_config() -> CN:
    """A fresh, unfrozen copy of the complete default tree."""
    cfg = CN()
    cfg.MODEL = _model()
    cfg.INPUT = CN(
        dict(
            MIN_SIZE_TRAIN=(800,),
            MAX_SIZE_TRAIN=1333,
            # (low, high): draw the training size from this integer range instead; (-1, -1) is off.
            MIN_SIZE_RANGE_TRAIN=(-1, -1),
            MIN_SIZE_TEST=800,
            MAX_SIZE_TEST=1333,
            PIXEL_MEAN=[102.9801, 115.9465, 122.7717],
            PIXEL_STD=[1.0, 1.0, 1.0],
            # True: BGR, 0..255. False: RGB, 0..1; mean and std are in the same units and order.
            TO_BGR255=True,
            VERTICAL_FLIP_PROB_TRAIN=0.0,
            BRIGHTNESS=0.0,
            CONTRAST=0.0,
            SATURATION=0.0,
            HUE=0.0,
        )
    )
    cfg.DATASETS = CN(
        dict(
            TRAIN=(),
            TEST=(),
            # New: the folder below which the catalogue's data sets lie.
            DATA_DIR="datasets",
        )
    )
    # New: own data. name -> {images: folder, annotations: file.json} or {voc_root: folder, split: name}.
    cfg.DATASETS.REGISTER = CN(new_allowed=True)
    # NUM_WORKERS: at most; fewer where the cores that a process can have do not suit so many.
    cfg.DATALOADER = CN(dict(NUM_WORKERS=4, SIZE_DIVISIBILITY=0, ASPECT_RATIO_GROUPING=True))
    cfg.SOLVER = _solver()
    cfg.TEST = _test()
    cfg.OUTPUT_DIR = "."
    cfg.PATHS_CATALOG = "labelenc/config/catalog.py"
    # float32, or float16 / bfloat16 for training in mixed precision by torch.amp; evaluation is in float32.
    cfg.DTYPE = "float32"
    cfg.AMP_VERBOSE = False
    # New: everything random follows from it; -1 draws one and logs it.
    cfg.SEED = -1
    return cfg


def _model() -> CN:
    model = CN(
        dict(
            RPN_ONLY=False,
            MASK_ON=False,
            FCOS_ON=False,
            RETINANET_ON=False,
            KEYPOINT_ON=False,
            DEVICE="cuda",
            META_ARCHITECTURE="GeneralizedRCNN",
            CLS_AGNOSTIC_BBOX_REG=False,
            USE_SYNCBN=False,
            # Initial weights: a path or a catalog:// name; "" starts from random weights.
            WEIGHT="",
            # New: foreground classes; 0 reads the number from the training annotations.
            NUM_CLASSES=0,
        )
    )
    model.BACKBONE = CN(
        dict(
            CONV_BODY="R-50-C4",
            FREEZE_CONV_BODY_AT=2,
            USE_GN=False,
            # New: the body keeps few activations and computes them anew in the backward pass: less memory.
            ACTIVATION_CHECKPOINTING=False,
        )
    )
    # New: keyword arguments for timm.create_model when CONV_BODY is "timm/<name>-FPN…".
    model.TIMM = CN()
    model.TIMM.KWARGS = CN(new_allowed=True)
    model.FPN = CN(dict(USE_GN=False, USE_RELU=False))
    model.GROUP_NORM = CN(dict(DIM_PER_GP=-1, NUM_GROUPS=32, EPSILON=1e-5))
    model.RESNETS = _resnets()
    model.RETINANET = _retinanet()
    model.FCOS = _fcos()
    model.RPN = _rpn()
    model.ROI_HEADS = CN(
        dict(
            USE_FPN=False,
            FG_IOU_THRESHOLD=0.5,
            BG_IOU_THRESHOLD=0.5,
            BBOX_REG_WEIGHTS=(10.0, 10.0, 5.0, 5.0),
            BATCH_SIZE_PER_IMAGE=512,
            POSITIVE_FRACTION=0.25,
            SCORE_THRESH=0.05,
            NMS=0.5,
            DETECTIONS_PER_IMG=100,
        )
    )
    model.ROI_BOX_HEAD = _roi_box_head()
    model.ROI_MASK_HEAD = _roi_mask_head()
    model.ROI_KEYPOINT_HEAD = _roi_keypoint_head()
    model.FBNET = _fbnet()
    model.LABELENC = CN(
        dict(
            # Step 1: iterations before the distance loss sets in, on top of SOLVER.MAX_ITER.
            DISTANCE_LOSS_WARMUP_ITERS=30000,
            # Step 2: iterations after which the auxiliary loss ends.
            AUXILIARY_LOSS_ITERS=80000,
            # New: step 2's head and FPN start from step 1. False: only the label encoder is taken from it, a
            # control that shows what the supervision does without the head start.
            START_FROM_STEP1=True,
            # New: scales the inner widths of the label encoder; 1.0 is the paper.
            ENCODER_WIDTH=1.0,
        )
    )
    return model


def _resnets() -> CN:
    return CN(
        dict(
            NUM_GROUPS=1,
            WIDTH_PER_GROUP=64,
            STRIDE_IN_1X1=True,
            TRANS_FUNC="BottleneckWithFixedBatchNorm",
            STEM_FUNC="StemWithFixedBatchNorm",
            RES5_DILATION=1,
            BACKBONE_OUT_CHANNELS=1024,
            # take 64 where this is left at 256 (see load.py).
            RES2_OUT_CHANNELS=256,
            STEM_OUT_CHANNELS=64,
            # layer1 to layer4 with deformable convolutions in place of the 3x3; modulated ones are DCNv2.
            STAGE_WITH_DCN=(False, False, False, False),
            WITH_MODULATED_DCN=False,
            DEFORMABLE_GROUPS=1,
            # New: the offsets of these layers start at zero, as in later detectors, not at random.
            ZERO_INIT_OFFSETS=False,
        )
    )


def _retinanet() -> CN:
    return CN(
        dict(
            NUM_CLASSES=81,
            ANCHOR_SIZES=(32, 64, 128, 256, 512),
            ASPECT_RATIOS=(0.5, 1.0, 2.0),
            # Three strides end the pyramid at P5, five add P6 and P7.
            ANCHOR_STRIDES=(8, 16, 32, 64, 128),
            STRADDLE_THRESH=0,
            OCTAVE=2.0,
            SCALES_PER_OCTAVE=3,
            USE_C5=True,
            NUM_CONVS=4,
            BBOX_REG_WEIGHT=4.0,
            BBOX_REG_BETA=0.11,
            PRE_NMS_TOP_N=1000,
            FG_IOU_THRESHOLD=0.5,
            BG_IOU_THRESHOLD=0.4,
            LOSS_ALPHA=0.25,
            LOSS_GAMMA=2.0,
            PRIOR_PROB=0.01,
            INFERENCE_TH=0.05,
            NMS_TH=0.4,
        )
    )


def _fcos() -> CN:
    return CN(
        dict(
            NUM_CLASSES=81,
            FPN_STRIDES=[8, 16, 32, 64, 128],
            PRIOR_PROB=0.01,
            INFERENCE_TH=0.05,
            NMS_TH=0.6,
            PRE_NMS_TOP_N=1000,
            LOSS_ALPHA=0.25,
            LOSS_GAMMA=2.0,
            NUM_CONVS=4,
            CENTER_SAMPLING_RADIUS=0.0,
            IOU_LOSS_TYPE="iou",
            NORM_REG_TARGETS=False,
            CENTERNESS_ON_REG=False,
            USE_DCN_IN_TOWER=False,
        )
    )


def _rpn() -> CN:
    return CN(
        dict(
            USE_FPN=False,
            ANCHOR_SIZES=(32, 64, 128, 256, 512),
            ANCHOR_STRIDE=(16,),
            ASPECT_RATIOS=(0.5, 1.0, 2.0),
            STRADDLE_THRESH=0,
            FG_IOU_THRESHOLD=0.7,
            BG_IOU_THRESHOLD=0.3,
            BATCH_SIZE_PER_IMAGE=256,
            POSITIVE_FRACTION=0.5,
            PRE_NMS_TOP_N_TRAIN=12000,
            PRE_NMS_TOP_N_TEST=6000,
            POST_NMS_TOP_N_TRAIN=2000,
            POST_NMS_TOP_N_TEST=1000,
            NMS_THRESH=0.7,
            MIN_SIZE=0,
            FPN_POST_NMS_TOP_N_TRAIN=2000,
            FPN_POST_NMS_TOP_N_TEST=2000,
            # New: FPN_POST_NMS_TOP_N_TRAIN counts over all images that a process trains on at a time (True),
            # or per image (False).
            FPN_POST_NMS_PER_BATCH=True,
            RPN_HEAD="SingleConvRPNHead",
        )
    )


def _roi_box_head() -> CN:
    return CN(
        dict(
            FEATURE_EXTRACTOR="ResNet50Conv5ROIFeatureExtractor",
            PREDICTOR="FastRCNNPredictor",
            POOLER_RESOLUTION=14,
            POOLER_SAMPLING_RATIO=0,
            POOLER_SCALES=(1.0 / 16,),
            NUM_CLASSES=81,
            MLP_HEAD_DIM=1024,
            USE_GN=False,
            DILATION=1,
            CONV_HEAD_DIM=256,
            NUM_STACKED_CONVS=4,
        )
    )


def _roi_mask_head() -> CN:
    return CN(
        dict(
            FEATURE_EXTRACTOR="ResNet50Conv5ROIFeatureExtractor",
            PREDICTOR="MaskRCNNC4Predictor",
            POOLER_RESOLUTION=14,
            POOLER_SAMPLING_RATIO=0,
            POOLER_SCALES=(1.0 / 16,),
            MLP_HEAD_DIM=1024,
            CONV_LAYERS=(256, 256, 256, 256),
            RESOLUTION=14,
            SHARE_BOX_FEATURE_EXTRACTOR=True,
            POSTPROCESS_MASKS=False,
            POSTPROCESS_MASKS_THRESHOLD=0.5,
            DILATION=1,
            USE_GN=False,
        )
    )


def _roi_keypoint_head() -> CN:
    return CN(
        dict(
            FEATURE_EXTRACTOR="KeypointRCNNFeatureExtractor",
            PREDICTOR="KeypointRCNNPredictor",
            POOLER_RESOLUTION=14,
            POOLER_SAMPLING_RATIO=0,
            POOLER_SCALES=(1.0 / 16,),
            MLP_HEAD_DIM=1024,
            CONV_LAYERS=tuple(512 for _ in range(8)),
            RESOLUTION=14,
            NUM_CLASSES=17,
            SHARE_BOX_FEATURE_EXTRACTOR=True,
        )
    )


def _fbnet() -> CN:
    return CN(
        dict(
            ARCH="default",
            ARCH_DEF="",
            BN_TYPE="bn",
            SCALE_FACTOR=1.0,
            WIDTH_DIVISOR=1,
            DW_CONV_SKIP_BN=True,
            DW_CONV_SKIP_RELU=True,
            DET_HEAD_LAST_SCALE=1.0,
            DET_HEAD_BLOCKS=[],
            DET_HEAD_STRIDE=0,
            KPTS_HEAD_LAST_SCALE=0.0,
            KPTS_HEAD_BLOCKS=[],
            KPTS_HEAD_STRIDE=0,
            MASK_HEAD_LAST_SCALE=0.0,
            MASK_HEAD_BLOCKS=[],
            MASK_HEAD_STRIDE=0,
            RPN_HEAD_BLOCKS=0,
            RPN_BN_TYPE="",
        )
    )


def _solver() -> CN:
    solver = CN(
        dict(
            MAX_ITER=40000,
            BASE_LR=0.001,
            BIAS_LR_FACTOR=2,
            DCONV_OFFSETS_LR_FACTOR=1.0,
            MOMENTUM=0.9,
            WEIGHT_DECAY=0.0005,
            WEIGHT_DECAY_BIAS=0,
            GAMMA=0.1,
            STEPS=(30000,),
            WARMUP_FACTOR=1.0 / 3,
            WARMUP_ITERS=500,
            WARMUP_METHOD="linear",
            CHECKPOINT_PERIOD=2500,
            # Images per update over all processes and micro-batches.
            IMS_PER_BATCH=16,
            # New: micro-batches per process and update, whose gradients are averaged. What losses count, such
            # as positives or proposals, and statistics of batch norm are each micro-batch's own.
            ACCUMULATION_STEPS=1,
            # New: the images per update that BASE_LR and the iterations are meant for. A file or command line
            # that writes BASE_LR means the IMS_PER_BATCH that then holds, unless it writes this key too.
            REFERENCE_IMS_PER_BATCH=16,
            # New: fit BASE_LR, MAX_ITER, STEPS and the iterations below MODEL.LABELENC to IMS_PER_BATCH by
            # the linear rule. load_config does it once; the result has False here.
            AUTO_SCALE=False,
            # New: average the weights over the updates; 0.0 is off, 0.9998 usual. Evaluations and step 2 then
            # use the average, and checkpoints hold it as model_ema.
            EMA_DECAY=0.0,
            # New: what becomes of an update whose losses are not finite: "stop" the run, or "skip" the update
            # (at most 10 in a row). Gradients that overflow in float16 are the loss scaler's business.
            ON_NONFINITE="stop",
            OPTIMIZER="SGD",  # New: SGD or AdamW.
            LR_SCHEDULE="multistep",  # New: multistep (STEPS, GAMMA) or cosine (to 0 at the last iteration).
            LOG_PERIOD=20,  # New: iterations between console lines.
            # New: torch.compile body, pyramid, towers, adapter and label encoder for training.
            COMPILE=False,
        )
    )
    # New: "norm" limits the gradient norm over all parameters, "value" each number.
    solver.CLIP_GRADIENTS = CN(dict(ENABLED=False, CLIP_TYPE="norm", CLIP_VALUE=1.0, NORM_TYPE=2.0))
    return solver


def _test() -> CN:
    test = CN(
        dict(
            EXPECTED_RESULTS=[],
            EXPECTED_RESULTS_SIGMA_TOL=4,
            IMS_PER_BATCH=8,
            DETECTIONS_PER_IMG=100,
            # New: iterations between evaluations while training; 0 evaluates at the end only.
            EVAL_PERIOD=0,
            # New: write OUTPUT_DIR/report/index.html after the final evaluation.
            REPORT=True,
            # New: images whose labels, encodings and features steps 1 and 2 draw before training, at every
            # evaluation and at the end, in OUTPUT_DIR/method and TensorBoard; 0 draws none.
            METHOD_IMAGES=4,
        )
    )
    # Test-time augmentation: besides the image at INPUT.MIN_SIZE_TEST, its mirror image (H_FLIP), the image
    # at each shorter side of SCALES with MAX_SIZE for the longer one, and their mirror images (SCALE_H_FLIP)
    # are detected on, and the detections chosen from all together. Nothing of it without ENABLED.
    test.BBOX_AUG = CN(dict(ENABLED=False, H_FLIP=False, SCALES=(), MAX_SIZE=4000, SCALE_H_FLIP=False))
    return test
