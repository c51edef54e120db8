"""Where a network looks: activation maps, their faithfulness, fully-convolutional form and localization."""

from cnnlab.explain.cam import activation_maps, cam, gradcam, layercam
from cnnlab.explain.faithfulness import deletion_insertion
from cnnlab.explain.fcn import FullyConvolutional
from cnnlab.explain.localize import Found, Localization, Localizer
from cnnlab.explain.overlay import overlay
from cnnlab.explain.pictures import explain_pictures, localize_pictures

__all__ = [
    "Found",
    "FullyConvolutional",
    "Localization",
    "Localizer",
    "activation_maps",
    "cam",
    "deletion_insertion",
    "explain_pictures",
    "gradcam",
    "layercam",
    "localize_pictures",
    "overlay",
]
