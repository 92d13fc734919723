"""Quantization: a float model and calibration images in, one QuantPlan for all formats out."""
