"""What the commands other than `build` do, one file per command."""
