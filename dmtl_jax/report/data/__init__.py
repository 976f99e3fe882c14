"""The part of a report that is about the data: classes, labels, the poorest images, and what would help."""
