"""The interface: configuration, presets, generate, outputs, streaming."""
