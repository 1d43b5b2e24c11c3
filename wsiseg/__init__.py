"""wsiseg: adenocarcinoma segmentation in whole-slide images, in batch."""

__version__ = "0.1.0"
