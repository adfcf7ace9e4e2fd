"""Measure accuracy: labelled images, COCO's average precision, curves and plots."""
