"""Where a network looks: activation maps, their faithfulness, fully-convolutional form and localization."""

from cnnlab.explain.cam import activation_maps, cam, gradcam, layercam
from cnnlab.explain.faithfulness import deletion_insertion
from cnnlab.explain.fcn import FullyConvolutional
from cnnlab.explain.images import explain_images, localize_images
from cnnlab.explain.localize import Found, Localization, Localizer
from cnnlab.explain.overlay import overlay

__all__ = [
    "Found",
    "FullyConvolutional",
    "Localization",
    "Localizer",
    "activation_maps",
    "cam",
    "deletion_insertion",
    "explain_images",
    "gradcam",
    "layercam",
    "localize_images",
    "overlay",
]
