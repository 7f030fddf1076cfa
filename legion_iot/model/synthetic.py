"""Published convolutional networks with seeded weights, for measuring where trained ones are not to be had.

The layer tables are the papers'; the weights are drawn (`weights.he_uniform`), so a network costs exactly what the
published one costs, its activations stay in a sane range, and its answers mean nothing. Batch normalisation is
folded away, as every converter does: it leaves a bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from legion_iot.model.builder import Activation, GraphBuilder
from legion_iot.model.graph import Graph

CLASSES = 1000
SIZE = 224  # rows and columns of the published classifiers' input
# How many layers each stage has: columns A, B, D and E of VGG's table 1, and the ResNets of basic blocks.
VGG_STAGES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
)
RESNET_STAGES: Mapping[str, tuple[int, ...]] = MappingProxyType({"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)})
# How much a residual branch adds to its trunk; without normalisation a gain of one would double the variance each time.
BRANCH_GAIN = 0.5
LOGIT_GAIN = 2.0  # spreads the logits, so that softmax is neither flat nor a single one


def vgg(name: str, convolutions: tuple[int, ...], seed: int = 0, size: int = SIZE) -> Graph:
    """A VGG at size×size: five stages of 3×3 convolutions, then global mean and one fully connected layer.

    `convolutions` counts the layers of each stage. The three fully connected layers of 4096, 4096 and 1000 units
    (494 MB of weights, 0.8 % of the arithmetic) are replaced. Source: Simonyan and Zisserman, ICLR 2015, table 1.
    """
    net = GraphBuilder(name, seed)
    x = net.input((1, size, size, 3))
    for channels, layers in zip((64, 128, 256, 512, 512), convolutions, strict=True):
        for _ in range(layers):
            x = net.conv2d(x, channels, 3, activation="relu")
        x = net.max_pool(x, 2)
    x = net.fully_connected(net.global_mean(x), CLASSES, gain=LOGIT_GAIN)
    return net.finish(net.softmax(x))


def yolov2(seed: int = 0) -> Graph:
    """YOLOv2 at 416×416: Darknet-19, the pass-through, and a 13×13×425 head (5 anchors × (80 classes + 5)).

    The pass-through is SPACE_TO_DEPTH; Darknet's reorg orders the same 256 channels differently, which matters to
    trained weights only. Source: Redmon and Farhadi, CVPR 2017, section 2 and table 6; layers as in yolov2.cfg.
    """
    net = GraphBuilder("yolov2", seed)

    def stage(x: int, channels: int, layers: int) -> int:
        """3×3 convolutions with 1×1 bottlenecks of half the channels between them."""
        for layer in range(layers):
            squeeze = layer % 2 == 1
            x = net.conv2d(x, channels // 2 if squeeze else channels, 1 if squeeze else 3, activation="leaky_relu")
        return x

    x = net.input((1, 416, 416, 3))
    for channels, layers in ((32, 1), (64, 1), (128, 3), (256, 3)):
        x = net.max_pool(stage(x, channels, layers), 2)
    fine = stage(x, 512, 5)
    x = stage(net.max_pool(fine, 2), 1024, 5)
    for _ in range(2):
        x = net.conv2d(x, 1024, 3, activation="leaky_relu")
    passed = net.space_to_depth(net.conv2d(fine, 64, 1, activation="leaky_relu"), 2)
    x = net.conv2d(net.concat((passed, x)), 1024, 3, activation="leaky_relu")
    return net.finish(net.conv2d(x, 425, 1))


def resnet(name: str, blocks: tuple[int, ...], seed: int = 0, size: int = SIZE) -> Graph:
    """A ResNet of basic blocks at size×size, with projections (option B) where the shape changes.

    `blocks` counts the residual blocks of each stage. Strided layers pad on both sides (PAD, then VALID), as the
    published network and its PyTorch form do. Source: He et al., CVPR 2016, table 1.
    """
    net = GraphBuilder(name, seed)

    def basic_block(x: int, channels: int, stride: int) -> int:
        trunk = x
        if stride == 1:
            y = net.conv2d(x, channels, 3, activation="relu")
        else:
            y = net.conv2d(net.pad(x, (1, 1), (1, 1)), channels, 3, stride=stride, padding="valid", activation="relu")
            trunk = net.conv2d(x, channels, 1, stride=stride, padding="valid")
        return net.add(net.conv2d(y, channels, 3, gain=BRANCH_GAIN), trunk, "relu")

    x = net.pad(net.input((1, size, size, 3)), (3, 3), (3, 3))
    x = net.conv2d(x, 64, 7, stride=2, padding="valid", activation="relu")
    x = net.max_pool(net.pad(x, (1, 1), (1, 1)), 3, 2)
    for stage, (channels, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True)):
        for block in range(count):
            x = basic_block(x, channels, 2 if stage and block == 0 else 1)
    x = net.fully_connected(net.global_mean(x), CLASSES, gain=LOGIT_GAIN)
    return net.finish(net.softmax(x))


def mobilenet_v1(seed: int = 0) -> Graph:
    """MobileNet 1.0 at 224×224. Source: Howard et al., arXiv:1704.04861, table 1."""
    net = GraphBuilder("mobilenet-v1", seed)
    x = net.conv2d(net.input((1, 224, 224, 3)), 32, 3, stride=2, activation="relu6")
    strided = {128, 256, 512, 1024}
    for channels in (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024):
        stride = 2 if channels in strided else 1
        strided.discard(channels)
        x = net.depthwise_conv2d(x, 3, stride=stride, activation="relu6")
        x = net.conv2d(x, channels, activation="relu6")
    return _pooled_classifier(net, x)


def mobilenet_v2(seed: int = 0) -> Graph:
    """MobileNetV2 1.0 at 224×224. Source: Sandler et al., CVPR 2018, table 2."""
    net = GraphBuilder("mobilenet-v2", seed)
    x = net.conv2d(net.input((1, 224, 224, 3)), 32, 3, stride=2, activation="relu6")
    for expansion, channels, repeats, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for repeat in range(repeats):
            x = _inverted_residual(net, x, expansion, channels, stride if repeat == 0 else 1)
    return _pooled_classifier(net, net.conv2d(x, 1280, activation="relu6"))


def _inverted_residual(net: GraphBuilder, x: int, expansion: int, channels: int, stride: int) -> int:
    depth = net.shape(x)[-1]
    kept = stride == 1 and depth == channels
    act: Activation = "relu6"
    y = x if expansion == 1 else net.conv2d(x, depth * expansion, activation=act)
    y = net.depthwise_conv2d(y, 3, stride=stride, activation=act)
    y = net.conv2d(y, channels, gain=BRANCH_GAIN if kept else 1.0)
    return net.add(y, x) if kept else y


def _pooled_classifier(net: GraphBuilder, x: int) -> Graph:
    """The tail of the published TFLite MobileNets: AVERAGE_POOL_2D over the whole map, then the classes."""
    batch, height, width, depth = net.shape(x)
    pooled = net.reshape(net.average_pool(x, (height, width)), (batch, depth))
    return net.finish(net.softmax(net.fully_connected(pooled, CLASSES, gain=LOGIT_GAIN)))


NETWORKS: Mapping[str, Callable[[int], Graph]] = MappingProxyType(
    {
        "vgg16": lambda seed: vgg("vgg16", VGG_STAGES["vgg16"], seed),
        "vgg19": lambda seed: vgg("vgg19", VGG_STAGES["vgg19"], seed),
        "yolov2": yolov2,
        "resnet18": lambda seed: resnet("resnet18", RESNET_STAGES["resnet18"], seed),
        "resnet34": lambda seed: resnet("resnet34", RESNET_STAGES["resnet34"], seed),
        "mobilenet-v1": mobilenet_v1,
        "mobilenet-v2": mobilenet_v2,
    }
)
