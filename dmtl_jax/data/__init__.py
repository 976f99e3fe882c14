"""Images and their partial labels: sources, label settings, transforms, input pipeline."""
