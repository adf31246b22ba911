"""One step: as a plan, as tensors, and copied to the device."""
