"""Sign, step, rounding and clamping."""
