"""Training: labelled images in, a bundle out (paper, section 2)."""
