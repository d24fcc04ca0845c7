"""What can be done to a batch of pictures, as (name, where, summary): records are made of it without importing any."""

from __future__ import annotations

from typing import Final

__all__ = ["AUGMENTS"]

AUGMENTS: Final = (
    ("flip", "spatial:Flip", "Mirror left to right at random"),
    ("dihedral", "spatial:Dihedral", "Mirror and turn by quarters at random, eight ways"),
    ("rotate", "spatial:Rotate", "Turn by a random angle"),
    ("zoom", "spatial:Zoom", "Enlarge about a random place"),
    ("perspective", "spatial:Perspective", "Look from aside, above or below at random"),
    ("random-resized-crop-gpu", "spatial:RandomResizedCropGPU", "Crop a random part of each picture of a batch"),
    ("brightness", "lighting:Brightness", "Make lighter or darker at random"),
    ("contrast", "lighting:Contrast", "Give more or less contrast at random"),
    ("saturation", "effects:Saturation", "Make colours stronger or paler at random"),
    ("hue", "effects:Hue", "Turn hues at random"),
    ("blur", "effects:Blur", "Blur by a Gaussian of random width"),
    ("noise", "effects:Noise", "Add normal noise of random strength"),
    ("jpeg-artifacts", "effects:JpegArtifacts", "Lose what a JPEG of a random quality loses"),
    ("random-erasing", "effects:RandomErasing", "Replace random rectangles by noise"),
    ("rand-augment", "policies:RandAugment", "Do some random operations of one strength"),
    ("trivial-augment", "policies:TrivialAugment", "Do one random operation of any strength"),
    ("torchvision", "torchvision_bridge:TorchvisionTransform", "What a transform of torchvision does, by its name"),
)
