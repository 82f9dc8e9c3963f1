"""From a model of floats to one of quantized numbers, and on to what ships."""
