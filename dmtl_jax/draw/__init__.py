"""Maps to pictures: colours, legends, panels."""
