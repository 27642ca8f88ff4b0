"""What to do, as data: schema, loader, presets."""
