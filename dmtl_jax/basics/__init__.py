"""What every room stands on: errors, progress, atomic files, safe readers of other people's files, devices."""
