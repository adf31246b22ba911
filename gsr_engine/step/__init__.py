"""One step: as a plan, as tensors, and on its way to the device."""
