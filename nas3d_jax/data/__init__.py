"""From NIfTI cases to patches on the device."""
