"""Detectors: torchvision's Faster R-CNN and RetinaNet on a pyramid of any body, behind the learner.

In training `forward` gives feature maps, and the heads' own losses are computed from them by `ModelParts.train_loss`,
which knows the targets; in evaluation it gives candidates as `BoxTensorBlock` reads them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from graftwork.api import ModelContext, ModelParts, OptionError, unknown
from graftwork_vision.archs import BACKBONES
from graftwork_vision.backbones import Body, vision_body
from graftwork_vision.blocks import ImageTensorBlock
from graftwork_vision.boxes import BoxTensorBlock
from graftwork_vision.models import Standardize, picture_block
from graftwork_vision.small import small_cnn_parts

__all__ = ["Detector", "Features", "Pyramid", "faster_rcnn", "retinanet"]

Targets = list[dict[str, Tensor]]
SMALL: Final = "small-cnn"
SMALL_WIDTHS: Final = (16, 32, 64, 96, 128)
FIRST_STRIDE: Final = 4
_NOT_THERE: Final = -10.0  # the logit of a candidate that is none
_PROBED: Final = 128


class Features(NamedTuple):
    """Be what a detector gives in training: maps by level, and the pictures' (height, width)."""

    maps: dict[str, Tensor]
    size: tuple[int, int]


class Pyramid(nn.Module):
    """Give a feature map (B, width, H, W) for every size from a `first` stride on (Lin et al., arXiv 1612.03144)."""

    def __init__(self, body: nn.Sequential, *, channels: int, first: int, width: int, extra: Any) -> None:
        """Find the stages behind which the map gets smaller; `extra` adds coarser levels."""
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        self.body, self.width = body, width
        taps = _taps(body, channels)
        self.taps = {name: str(level) for level, (name, _, stride) in enumerate(taps) if stride >= first}
        if not self.taps:
            raise OptionError(f"this body has no feature map at a stride of {first} or more")
        widths = [width_of for _, width_of, stride in taps if stride >= first]
        self.strides = [stride for *_, stride in taps if stride >= first]
        self.fpn = FeaturePyramidNetwork(widths, width, extra_blocks=extra)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return maps by level, the finest first."""
        found: OrderedDict[str, Tensor] = OrderedDict()
        for name, stage in self.body.named_children():
            x = stage(x)
            if name in self.taps:
                found[self.taps[name]] = x
        maps: dict[str, Tensor] = self.fpn(found)
        return maps


def _taps(body: nn.Sequential, channels: int) -> list[tuple[str, int, int]]:
    """Return (stage, channels, stride) of the last stage at every size, by passing a picture that has no memory."""
    probe, found = torch.zeros(1, channels, _PROBED, _PROBED, device="meta"), dict[int, tuple[str, int, int]]()
    with torch.no_grad():
        for name, stage in body.named_children():
            probe = deepcopy(stage).to("meta").eval()(probe)
            if probe.ndim != 4:
                raise OptionError("this body gives no feature maps, so that nothing can be found at places in them")
            stride = _PROBED // probe.shape[2]
            found[stride] = (name, probe.shape[1], stride)
    return [found[stride] for stride in sorted(found) if stride >= FIRST_STRIDE]


class Detector(nn.Module):
    """Find boxes in pictures (B, C, H, W); see the module for what it gives."""

    def __init__(self, pyramid: Pyramid, block: BoxTensorBlock, normalize: nn.Module) -> None:
        """Hold what every detector has."""
        super().__init__()
        self.normalize, self.pyramid, self.block = normalize, pyramid, block

    def forward(self, x: Tensor) -> Features | Tensor:
        """Return feature maps in training, raw candidates (B, max_boxes * (4 + classes)) in evaluation."""
        features = Features(self.pyramid(self.normalize(x)), (x.shape[2], x.shape[3]))
        return features if self.training else self._packed(self.detect(features), features.size)

    @abstractmethod
    def detect(self, features: Features) -> Targets:
        """Return for every picture `boxes` (N, 4) in pixels, `labels` as codes and `scores`, the surest first."""

    @abstractmethod
    def losses(self, features: Features, targets: Targets) -> Mapping[str, Tensor]:
        """Return the parts of the training loss."""

    def train_loss(self, compare: Any, raw: Features, target: Tensor) -> Tensor:
        """Return the sum of the detector's own losses; the loss of finished predictions is not used."""
        maps = next(iter(raw.maps.values()))
        half = maps.dtype != torch.float32
        with torch.autocast(maps.device.type, dtype=maps.dtype if half else torch.bfloat16, enabled=half):
            parts = self.losses(raw, _in_pixels(target, raw.size))
        return torch.stack([part.float() for part in parts.values()]).sum()

    def _packed(self, found: Targets, size: tuple[int, int]) -> Tensor:
        """Bring detections into the form of raw outputs."""
        classes, most = len(self.block.vocab), self.block.max_boxes
        rows = []
        for picture in found:
            boxes, scores = picture["boxes"][:most].float(), picture["scores"][:most].float()
            scale = boxes.new_tensor([size[1], size[0], size[1], size[0]])
            row = boxes.new_full((most, 4 + classes), _NOT_THERE)
            row[:, :4] = 0
            row[: len(boxes), :4] = boxes / scale * 2 - 1
            logits = scores.clamp(1e-6, 1 - 1e-6).logit()
            row[torch.arange(len(boxes), device=row.device), 4 + picture["labels"][:most]] = logits
            rows.append(row)
        return torch.stack(rows).flatten(1)


def _in_pixels(target: Tensor, size: tuple[int, int]) -> Targets:
    scale = target.new_tensor([size[1], size[0], size[1], size[0]])
    there = [rows[rows[:, 4] >= 0] for rows in target]
    return [{"boxes": (rows[:, :4] + 1) / 2 * scale, "labels": rows[:, 4].long()} for rows in there]


def _as_images(features: Features) -> Any:
    from torchvision.models.detection.image_list import ImageList

    first = next(iter(features.maps.values()))
    # Only the pictures' number, size, type and device are looked at.
    pictures = first.new_empty((len(first), 0, *features.size))
    return ImageList(pictures, [features.size] * len(first))


class _FasterRCNN(Detector):
    """Propose places, then look at each (Ren et al., arXiv 1506.01497)."""

    def __init__(
        self, pyramid: Pyramid, block: BoxTensorBlock, normalize: nn.Module, options: Mapping[str, Any]
    ) -> None:
        super().__init__(pyramid, block, normalize)
        from torchvision.models.detection.faster_rcnn import FasterRCNN

        sizes = tuple((options["anchor_scale"] * stride,) for stride in (*pyramid.strides, 2 * pyramid.strides[-1]))
        levels = [str(level) for level in pyramid.taps.values()]
        whole = FasterRCNN(
            _Width(pyramid.width),
            rpn_anchor_generator=_anchors(sizes),
            box_roi_pool=_pool(levels),
            box_head=_box_head(pyramid.width, options["head_width"]),
            box_predictor=_predictor(options["head_width"], len(block.vocab) + 1),
            rpn_pre_nms_top_n_train=1000,
            rpn_pre_nms_top_n_test=500,
            rpn_post_nms_top_n_train=options["proposals"],
            rpn_post_nms_top_n_test=options["proposals"],
            box_batch_size_per_image=options["box_samples"],
            box_score_thresh=options["score_thresh"],
            box_nms_thresh=options["nms_thresh"],
            box_detections_per_img=block.max_boxes,
        )
        self.rpn, self.roi_heads = whole.rpn, whole.roi_heads

    def _proposed(self, features: Features, targets: Targets | None) -> tuple[list[Tensor], dict[str, Tensor]]:
        proposals, losses = self.rpn(_as_images(features), features.maps, targets)
        return [p.float() for p in proposals], losses

    def detect(self, features: Features) -> Targets:
        """Propose, classify, suppress what overlaps."""
        proposals, _ = self._proposed(features, None)
        found, _ = self.roi_heads(features.maps, proposals, [features.size] * len(proposals), None)
        # What torchvision calls 0 is the background.
        return [{**picture, "labels": picture["labels"] - 1} for picture in found]

    def losses(self, features: Features, targets: Targets) -> Mapping[str, Tensor]:
        """Return the losses of proposals and of what they are called."""
        proposals, proposing = self._proposed(features, targets)
        named = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets]
        _, calling = self.roi_heads(features.maps, proposals, [features.size] * len(proposals), named)
        return {**proposing, **calling}


class _RetinaNet(Detector):
    """Judge every place at once (Lin et al., arXiv 1708.02002)."""

    def __init__(
        self, pyramid: Pyramid, block: BoxTensorBlock, normalize: nn.Module, options: Mapping[str, Any]
    ) -> None:
        super().__init__(pyramid, block, normalize)
        from torchvision.models.detection.retinanet import RetinaNet

        strides = [*pyramid.strides, 2 * pyramid.strides[-1], 4 * pyramid.strides[-1]]
        scale = options["anchor_scale"]
        sizes = tuple(tuple(int(scale * stride * 2 ** (i / 3)) for i in range(3)) for stride in strides)
        self.retina = RetinaNet(
            _Width(pyramid.width),
            num_classes=len(block.vocab),
            anchor_generator=_anchors(sizes),
            score_thresh=options["score_thresh"],
            nms_thresh=options["nms_thresh"],
            detections_per_img=block.max_boxes,
        )
        self.retina.backbone = nn.Identity()

    def detect(self, features: Features) -> Targets:
        """Judge every anchor, suppress what overlaps."""
        maps = list(features.maps.values())
        judged = {name: out.float() for name, out in self.retina.head(maps).items()}
        anchors = self.retina.anchor_generator(_as_images(features), maps)
        counts = [m.shape[2] * m.shape[3] * self.retina.anchor_generator.num_anchors_per_location()[0] for m in maps]
        split = {name: list(out.split(counts, dim=1)) for name, out in judged.items()}
        parts = [list(a.split(counts)) for a in anchors]
        found: Targets = self.retina.postprocess_detections(split, parts, [features.size] * len(anchors))
        return found

    def losses(self, features: Features, targets: Targets) -> Mapping[str, Tensor]:
        """Return the focal loss of classes and the distance of boxes."""
        maps = list(features.maps.values())
        judged = {name: out.float() for name, out in self.retina.head(maps).items()}
        anchors = self.retina.anchor_generator(_as_images(features), maps)
        losses: dict[str, Tensor] = self.retina.compute_loss(targets, judged, anchors)
        return losses


class _Width(nn.Module):
    """Stand for a backbone where torchvision asks for one: only its width is looked at."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels


def _anchors(sizes: tuple[tuple[int, ...], ...]) -> Any:
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    # They are no parameters, so they are to be numbers also where a model is built without memory.
    with torch.device("cpu"):
        return AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))


def _pool(levels: Sequence[str]) -> Any:
    from torchvision.ops import MultiScaleRoIAlign

    return MultiScaleRoIAlign(featmap_names=list(levels), output_size=7, sampling_ratio=2)


def _box_head(width: int, hidden: int) -> Any:
    from torchvision.models.detection.faster_rcnn import TwoMLPHead

    return TwoMLPHead(width * 7 * 7, hidden)


def _predictor(hidden: int, classes: int) -> Any:
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

    return FastRCNNPredictor(hidden, classes)


def _pyramid(
    ctx: ModelContext, name: str, backbone: str, weights: str | None, *, first: int, width: int, extra: Any
) -> tuple[Pyramid, Body, ImageTensorBlock]:
    picture = picture_block(ctx.inputs, name)
    body = _body(picture, name, backbone, weights)
    if body.pooled or not isinstance(body.module, nn.Sequential):
        raise OptionError(f"{name}: {backbone} gives no feature maps; use a convolutional backbone such as resnet18")
    pyramid = Pyramid(body.module, channels=picture.channels, first=first, width=width, extra=extra)
    return pyramid, body, picture


def _body(picture: ImageTensorBlock, name: str, backbone: str, weights: str | None) -> Body:
    if backbone == SMALL:
        if weights is not None:
            raise OptionError(f"{name}: there are no weights of the backbone {SMALL}; use weights=None")
        module, _ = small_cnn_parts(picture.channels, picture.size, 1, widths=SMALL_WIDTHS)
        return Body(module=module, stages=(module,), num_lower=0, num_features=SMALL_WIDTHS[-1])
    if backbone not in BACKBONES:
        raise unknown("backbone", backbone, (SMALL, *BACKBONES))
    return vision_body(backbone, channels=picture.channels, size=picture.size, weights=weights)


def _target(ctx: ModelContext, name: str) -> BoxTensorBlock:
    blocks = list(ctx.targets.values())
    if len(blocks) != 1 or not isinstance(blocks[0], BoxTensorBlock):
        raise OptionError(f"{name} finds boxes, and the data's targets are {dict(ctx.targets)}; use BBoxBlock")
    return blocks[0]


def _parts(detector: Detector, body: Body, config: Mapping[str, Any]) -> ModelParts:
    inside = {id(p) for p in detector.pyramid.body.parameters()}
    heads = [m for m in detector.children() if m is not detector.pyramid] + [detector.pyramid.fpn]
    assert all(id(p) not in inside for m in heads for p in m.parameters())
    return ModelParts(
        module=detector,
        groups={**body.groups, "head": tuple(heads)},
        config={**config, "weights": None},
        train_loss=detector.train_loss,
    )


def faster_rcnn(
    ctx: ModelContext,
    *,
    backbone: str = "resnet18",
    weights: str | None = None,
    width: int = 128,
    head_width: int = 256,
    first_stride: int = 4,
    anchor_scale: int = 4,
    proposals: int = 200,
    box_samples: int = 128,
    score_thresh: float = 0.05,
    nms_thresh: float = 0.5,
    normalize: bool = False,
) -> ModelParts:
    """Build torchvision's Faster R-CNN on the feature pyramid of a backbone, one of its classifiers by name.

    `weights` are the backbone's. Anchors are `anchor_scale` times the stride of their level (torchvision's own model,
    for pictures of 800 pixels, has 8, and 256, 1024, 1000, 512 for width, head_width, proposals, box_samples).
    """
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    block = _target(ctx, "faster-rcnn")
    pyramid, body, picture = _pyramid(
        ctx, "faster-rcnn", backbone, weights, first=first_stride, width=width, extra=LastLevelMaxPool()
    )
    options = {"backbone": backbone, "width": width, "head_width": head_width, "first_stride": first_stride}
    options |= {"anchor_scale": anchor_scale, "proposals": proposals, "box_samples": box_samples}
    options |= {"score_thresh": score_thresh, "nms_thresh": nms_thresh, "normalize": normalize}
    within = Standardize(picture.channels) if normalize else nn.Identity()
    return _parts(_FasterRCNN(pyramid, block, within, options), body, options)


def retinanet(
    ctx: ModelContext,
    *,
    backbone: str = "resnet18",
    weights: str | None = None,
    width: int = 128,
    first_stride: int = 8,
    anchor_scale: int = 4,
    score_thresh: float = 0.05,
    nms_thresh: float = 0.5,
    normalize: bool = False,
) -> ModelParts:
    """Build torchvision's RetinaNet on the feature pyramid of a backbone; options as for Faster R-CNN."""
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    block = _target(ctx, "retinanet")
    pyramid, body, picture = _pyramid(
        ctx, "retinanet", backbone, weights, first=first_stride, width=width, extra=LastLevelP6P7(width, width)
    )
    options = {"backbone": backbone, "width": width, "first_stride": first_stride, "anchor_scale": anchor_scale}
    options |= {"score_thresh": score_thresh, "nms_thresh": nms_thresh, "normalize": normalize}
    within = Standardize(picture.channels) if normalize else nn.Identity()
    return _parts(_RetinaNet(pyramid, block, within, options), body, options)
